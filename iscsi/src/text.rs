//! key=value text of login and text PDUs (RFC 7143 6.1): parsing and writing pairs and values, putting a list
//! together from PDUs with the continue bit, and splitting a long one. Used by login, by discovery, and by
//! the target's text requests. Every length has a limit, because the text comes from an unauthenticated peer.

use base64::Engine;
use core::fmt::{Display, Write};

/// Longest key name, in bytes (RFC 7143 6.1).
pub const MAX_KEY_LEN: usize = 63;
/// Longest value, in bytes, unless the key says otherwise (RFC 7143 6.1).
pub const MAX_VALUE_LEN: usize = 255;
/// Longest binary value, in bytes before encoding (RFC 7143 12.1.3: CHAP_C and CHAP_R).
pub const MAX_BINARY_LEN: usize = 1024;
/// Longest key=value list over all PDUs of one answer, in bytes (RFC 7143 6.2).
pub const MAX_TEXT_LEN: usize = 64 * 1024;

/// What is wrong with received text, or with text about to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TextError {
    /// No `=` in a pair.
    #[error("text without '='")]
    NoSeparator,
    /// The last pair does not end in NUL.
    #[error("text does not end in NUL")]
    Unterminated,
    /// Not a key name of RFC 7143 6.1, or longer than [`MAX_KEY_LEN`].
    #[error("malformed key name")]
    Key,
    /// The value is not UTF-8, holds NUL, or is too long for its key.
    #[error("malformed or over-long value")]
    Value,
    /// The list is longer than [`MAX_TEXT_LEN`].
    #[error("text longer than {MAX_TEXT_LEN} bytes")]
    TooLong,
}

/// The beginning of a value that a peer sent, for messages: printable ASCII, at most 24 characters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Excerpt {
    bytes: [u8; 24],
    len: u8,
    cut: bool,
}

impl Excerpt {
    /// The beginning of `value`; what cannot be printed becomes a dot.
    pub fn new(value: &str) -> Excerpt {
        let mut excerpt = Excerpt { bytes: [0; 24], len: 0, cut: false };
        for c in value.chars() {
            let Some(slot) = excerpt.bytes.get_mut(usize::from(excerpt.len)) else {
                excerpt.cut = true;
                break;
            };
            *slot = if c.is_ascii_graphic() || c == ' ' { c as u8 } else { b'.' };
            excerpt.len += 1;
        }
        excerpt
    }
}

impl Display for Excerpt {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let text = core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default();
        write!(f, "{text}{}", if self.cut { "..." } else { "" })
    }
}

impl core::fmt::Debug for Excerpt {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Longest value of `key`, in bytes.
fn value_limit(key: &str) -> usize {
    match key {
        "CHAP_C" | "CHAP_R" => 2 + 2 * MAX_BINARY_LEN,
        // A host of 255 bytes, brackets, port and portal group tag.
        "TargetAddress" => MAX_VALUE_LEN + 14,
        _ => MAX_VALUE_LEN,
    }
}

/// Whether `key` is a standard-label (RFC 7143 6.1), the `#` form of registered extension keys, or the one
/// key of the RFC that begins with a small letter.
fn is_key(key: &str) -> bool {
    let rest_ok = |byte: u8| byte.is_ascii_alphanumeric() || b".-+@_#".contains(&byte);
    let label = key.starts_with(|c: char| c.is_ascii_uppercase()) && key.bytes().all(rest_ok);
    key.len() <= MAX_KEY_LEN && (label || key == "iSCSIProtocolLevel")
}

/// The pairs of a complete list; stops after the first error. Empty strings (stray NULs) are skipped.
#[derive(Clone, Debug)]
pub struct Pairs<'a> {
    rest: &'a [u8],
}

impl<'a> Pairs<'a> {
    /// The pairs in `text`.
    pub const fn new(text: &'a [u8]) -> Pairs<'a> {
        Pairs { rest: text }
    }

    fn parse(pair: &'a [u8]) -> Result<(&'a str, &'a str), TextError> {
        let text = core::str::from_utf8(pair).map_err(|_| TextError::Value)?;
        let (key, value) = text.split_once('=').ok_or(TextError::NoSeparator)?;
        if !is_key(key) {
            return Err(TextError::Key);
        }
        if value.len() > value_limit(key) { Err(TextError::Value) } else { Ok((key, value)) }
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<(&'a str, &'a str), TextError>;

    fn next(&mut self) -> Option<Self::Item> {
        while let [0, rest @ ..] = self.rest {
            self.rest = rest;
        }
        if self.rest.is_empty() {
            return None;
        }
        let parsed = match self.rest.iter().position(|&byte| byte == 0) {
            Some(end) => {
                let pair = &self.rest[..end];
                self.rest = &self.rest[end + 1..];
                Pairs::parse(pair)
            }
            None => Err(TextError::Unterminated),
        };
        if parsed.is_err() {
            self.rest = &[];
        }
        Some(parsed)
    }
}

/// A key=value list being written, at most [`MAX_TEXT_LEN`] bytes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TextWriter {
    bytes: String,
}

/// Text may hold CHAP responses: only its length is shown.
impl core::fmt::Debug for TextWriter {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "TextWriter({} bytes)", self.bytes.len())
    }
}

impl TextWriter {
    /// An empty list.
    pub const fn new() -> TextWriter {
        TextWriter { bytes: String::new() }
    }

    /// Adds `key=value` and its NUL.
    ///
    /// # Errors
    /// [`TextError::Key`], [`TextError::Value`] or [`TextError::TooLong`]; nothing is added then.
    pub fn push(&mut self, key: &str, value: impl Display) -> Result<(), TextError> {
        let start = self.bytes.len();
        let written = write!(self.bytes, "{key}={value}");
        let value = self.bytes.get(start + key.len() + 1..).unwrap_or_default();
        let judged = if !is_key(key) {
            Err(TextError::Key)
        } else if written.is_err() || value.len() > value_limit(key) || value.contains('\0') {
            Err(TextError::Value)
        } else if self.bytes.len() >= MAX_TEXT_LEN {
            Err(TextError::TooLong)
        } else {
            self.bytes.push('\0');
            Ok(())
        };
        judged.inspect_err(|_| self.bytes.truncate(start))
    }

    /// Adds all of `other`.
    ///
    /// # Errors
    /// [`TextError::TooLong`]; nothing is added then.
    pub fn append(&mut self, other: TextWriter) -> Result<(), TextError> {
        if self.bytes.len() + other.bytes.len() > MAX_TEXT_LEN {
            return Err(TextError::TooLong);
        }
        self.bytes.push_str(&other.bytes);
        Ok(())
    }

    /// Whether nothing has been added.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The list as on the wire.
    pub const fn as_bytes(&self) -> &[u8] {
        self.bytes.as_bytes()
    }

    /// The list as on the wire.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes.into_bytes()
    }
}

/// Puts a list together from the data segments of PDUs with the continue bit.
#[derive(Clone, Default)]
pub struct TextCollector {
    bytes: Vec<u8>,
}

impl core::fmt::Debug for TextCollector {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "TextCollector({} bytes)", self.bytes.len())
    }
}

impl TextCollector {
    /// Nothing collected.
    pub const fn new() -> TextCollector {
        TextCollector { bytes: Vec::new() }
    }

    /// Adds one PDU's data; `more` is its continue bit. Returns the whole list when it is complete and starts
    /// afresh.
    ///
    /// # Errors
    /// [`TextError::TooLong`]; what was collected is dropped.
    pub fn push(&mut self, data: &[u8], more: bool) -> Result<Option<Vec<u8>>, TextError> {
        if self.bytes.len() + data.len() > MAX_TEXT_LEN {
            self.bytes = Vec::new();
            return Err(TextError::TooLong);
        }
        self.bytes.extend_from_slice(data);
        Ok(if more { None } else { Some(core::mem::take(&mut self.bytes)) })
    }

    /// Whether a list has been begun and not finished.
    pub const fn is_open(&self) -> bool {
        !self.bytes.is_empty()
    }
}

/// Hands out a list in pieces that fit the peer's data segments.
#[derive(Clone, Default)]
pub struct TextSplitter {
    bytes: Vec<u8>,
    at: usize,
}

impl core::fmt::Debug for TextSplitter {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "TextSplitter({} of {} bytes)", self.at, self.bytes.len())
    }
}

impl TextSplitter {
    /// The pieces of `text`.
    pub const fn new(text: Vec<u8>) -> TextSplitter {
        TextSplitter { bytes: text, at: 0 }
    }

    /// The next piece of at most `limit` bytes, and whether more follow it (the continue bit).
    pub fn next_piece(&mut self, limit: usize) -> (&[u8], bool) {
        let start = self.at;
        self.at = self.bytes.len().min(start + limit.max(1));
        (&self.bytes[start..self.at], self.has_more())
    }

    /// Whether pieces are left.
    pub const fn has_more(&self) -> bool {
        self.at < self.bytes.len()
    }
}

/// A numeric value: decimal without leading zeros, or hexadecimal with `0x`.
pub fn number(value: &str) -> Option<u64> {
    let (digits, radix) = match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None => (value, 10),
    };
    let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let leading_zero = radix == 10 && digits.len() > 1 && digits.starts_with('0');
    if plain && !leading_zero { u64::from_str_radix(digits, radix).ok() } else { None }
}

/// A boolean value.
pub fn boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

/// The text of a boolean value.
pub const fn yes_no(value: bool) -> &'static str {
    if value { "Yes" } else { "No" }
}

/// A range `low~high` with `low <= high`.
pub fn range(value: &str) -> Option<(u64, u64)> {
    let (low, high) = value.split_once('~')?;
    let (low, high) = (number(low)?, number(high)?);
    (low <= high).then_some((low, high))
}

/// The members of a list, in order of preference.
pub fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',')
}

/// A binary value, hexadecimal (`0x`) or base64 (`0b`), of at most `limit` bytes. An odd number of
/// hexadecimal digits has an implied leading zero.
pub fn binary(value: &str, limit: usize) -> Option<Vec<u8>> {
    let bytes = match value.get(..2)? {
        "0x" | "0X" => hex(&value.as_bytes()[2..], limit)?,
        "0b" | "0B" => base64(&value.as_bytes()[2..], limit)?,
        _ => return None,
    };
    (!bytes.is_empty() && bytes.len() <= limit).then_some(bytes)
}

fn hex(digits: &[u8], limit: usize) -> Option<Vec<u8>> {
    if digits.len() > 2 * limit {
        return None;
    }
    let nibble = |digit: u8| (digit as char).to_digit(16).map(|value| value as u8);
    let (first, pairs) = digits.split_at(digits.len() % 2);
    let mut bytes = Vec::with_capacity(digits.len().div_ceil(2));
    for &digit in first {
        bytes.push(nibble(digit)?);
    }
    for pair in pairs.chunks_exact(2) {
        bytes.push(nibble(pair[0])? << 4 | nibble(pair[1])?);
    }
    Some(bytes)
}

fn base64(digits: &[u8], limit: usize) -> Option<Vec<u8>> {
    if digits.len() > limit.div_ceil(3) * 4 {
        return None;
    }
    base64::engine::general_purpose::STANDARD.decode(digits).ok()
}

/// The hexadecimal form of a binary value, with `0x`.
pub fn hex_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("0x");
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    text
}

/// The base64 form of a binary value, with `0b`.
pub fn base64_text(bytes: &[u8]) -> String {
    let mut text = String::from("0b");
    base64::engine::general_purpose::STANDARD.encode_string(bytes, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &[u8]) -> Result<Vec<(&str, &str)>, TextError> {
        Pairs::new(text).collect()
    }

    #[test]
    fn an_excerpt_is_short_and_printable() {
        for (value, want) in [
            ("", ""),
            ("Yes", "Yes"),
            ("a\u{1b}[31m b", "a.[31m b"),
            ("\u{fc}ber", ".ber"),
            ("123456789012345678901234", "123456789012345678901234"),
            ("1234567890123456789012345", "123456789012345678901234..."),
        ] {
            assert_eq!(Excerpt::new(value).to_string(), want);
        }
    }

    #[test]
    fn pairs_are_read() {
        let text = b"HeaderDigest=CRC32C,None\0X-com.example.a=1=2\0\0InitiatorAlias=\0";
        let want = [("HeaderDigest", "CRC32C,None"), ("X-com.example.a", "1=2"), ("InitiatorAlias", "")];
        assert_eq!(pairs(text).unwrap(), want);
        assert_eq!(pairs(b"\0\0\0").unwrap(), []);
    }

    #[test]
    fn malformed_pairs_are_refused() {
        assert_eq!(pairs(b"HeaderDigest\0"), Err(TextError::NoSeparator));
        assert_eq!(pairs(b"A=1\0B=2"), Err(TextError::Unterminated));
        assert_eq!(pairs(b"sENDtARGETS=aLL\0"), Err(TextError::Key));
        assert_eq!(pairs(b"=x\0"), Err(TextError::Key));
        assert_eq!(pairs(b"A b=x\0"), Err(TextError::Key));
        assert_eq!(pairs(b"A=\xff\0"), Err(TextError::Value));
        for (len, fits) in [(MAX_KEY_LEN, true), (MAX_KEY_LEN + 1, false)] {
            assert_eq!(pairs(format!("{}=1\0", "K".repeat(len)).as_bytes()).is_ok(), fits);
        }
        for (key, limit) in [("A", 255), ("CHAP_C", 2050), ("TargetAddress", 269)] {
            assert!(pairs(format!("{key}={}\0", "v".repeat(limit)).as_bytes()).is_ok());
            assert_eq!(pairs(format!("{key}={}\0", "v".repeat(limit + 1)).as_bytes()), Err(TextError::Value));
        }
    }

    #[test]
    fn writer_keeps_the_limits() {
        let mut text = TextWriter::new();
        assert_eq!(text.push("bad key", 1), Err(TextError::Key));
        assert_eq!(text.push("A", "x\0y"), Err(TextError::Value));
        assert!(text.is_empty());
        let mut pushed = 0;
        while text.push("A", "v".repeat(253)).is_ok() {
            pushed += 1;
        }
        assert_eq!((pushed, text.as_bytes().len()), (256, MAX_TEXT_LEN));
        assert_eq!(text.push("B", 1), Err(TextError::TooLong));
    }

    #[test]
    fn collector_keeps_the_limit() {
        let mut collector = TextCollector::new();
        for _ in 0..8 {
            assert_eq!(collector.push(&[b'a'; 8192], true), Ok(None));
        }
        assert!(collector.is_open());
        assert_eq!(collector.push(b"x", false), Err(TextError::TooLong));
        assert_eq!(collector.push(b"fresh", false), Ok(Some(b"fresh".to_vec())));
    }

    #[test]
    fn values_are_read() {
        assert_eq!(
            [number("0"), number("262144"), number("0x1F"), number("0Xff")],
            [0, 262144, 31, 255].map(Some)
        );
        for bad in ["", "007", "-1", "+1", "0x", "1k", "18446744073709551616", " 1"] {
            assert_eq!(number(bad), None, "{bad}");
        }
        assert_eq!((boolean("Yes"), boolean("No"), boolean("yes")), (Some(true), Some(false), None));
        assert_eq!((range("1~0x10"), range("2~1"), range("1")), (Some((1, 16)), None, None));
        assert_eq!(binary("0x0aFf", 2), Some(vec![0x0a, 0xff]));
        assert_eq!(binary("0xaff", 2), Some(vec![0x0a, 0xff]));
        assert_eq!(binary("0bCv8=", 2), Some(vec![0x0a, 0xff]));
        for bad in ["", "0", "0x", "0b", "0xzz", "0x010203", "0bAQID", "0b!", "0bCv8", "1234", "é"] {
            assert_eq!(binary(bad, 2), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn binary_round_trips(bytes in proptest::collection::vec(any::<u8>(), 1..1025)) {
            prop_assert_eq!(binary(&hex_text(&bytes), 1024), Some(bytes.clone()));
            prop_assert_eq!(binary(&base64_text(&bytes), 1024), Some(bytes));
        }

        #[test]
        fn split_and_collected_is_the_same(text in proptest::collection::vec(any::<u8>(), 0..5000), limit in 1usize..700) {
            let (mut splitter, mut collector) = (TextSplitter::new(text.clone()), TextCollector::new());
            let whole = loop {
                let (piece, more) = splitter.next_piece(limit);
                prop_assert!(piece.len() <= limit);
                if let Some(whole) = collector.push(piece, more).unwrap() { break whole }
            };
            prop_assert_eq!(whole, text);
        }

        #[test]
        fn any_text_is_judged(text in proptest::collection::vec(any::<u8>(), 0..300), value in "\\PC{0,40}") {
            prop_assert!(Pairs::new(&text).count() <= text.len());
            let _ = (number(&value), boolean(&value), range(&value), binary(&value, 8), list(&value).count());
        }
    }
}
