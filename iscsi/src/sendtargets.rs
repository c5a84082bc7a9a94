//! The answer to SendTargets (RFC 7143 Appendix C): the target writes it, discovery reads it. A record starts
//! at its TargetName; a target without TargetAddress is reached where the question was asked (ISCSID 5).

use crate::names::{HostPort, normalize};
use crate::text::{Excerpt, Pairs, TextError, TextWriter, number};
use core::fmt::{Display, Formatter};

/// Most portals (targets times addresses) that one answer may list. An answer of 64 KiB has room for somewhat
/// more.
pub const MAX_PORTALS: usize = 2048;

/// A TargetAddress: `host[:port][,tag]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TargetAddress {
    /// Where the portal listens.
    pub portal: HostPort,
    /// TargetPortalGroupTag; absent in redirects, and with targets that leave it out.
    pub tag: Option<u16>,
}

impl TargetAddress {
    /// Reads a value of TargetAddress; the port defaults to 3260. `None` for a malformed one.
    pub fn parse(text: &str) -> Option<TargetAddress> {
        let (portal, tag) = match text.split_once(',') {
            Some((portal, tag)) => (portal, Some(u16::try_from(number(tag)?).ok()?)),
            None => (text, None),
        };
        Some(TargetAddress { portal: HostPort::parse(portal)?, tag })
    }
}

impl Display for TargetAddress {
    fn fmt(&self, f: &mut Formatter<'_>) -> core::fmt::Result {
        match self.tag {
            Some(tag) => write!(f, "{},{tag}", self.portal),
            None => write!(f, "{}", self.portal),
        }
    }
}

/// One target of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetRecord {
    /// Its name.
    pub name: String,
    /// Its portals; empty means the portal that was asked.
    pub addresses: Vec<TargetAddress>,
}

/// Why an answer cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendTargetsError {
    /// Malformed text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A key that does not belong here.
    #[error("unexpected SendTargets data: {0}")]
    UnexpectedKey(Excerpt),
    /// TargetAddress before the first TargetName.
    #[error("it has an address without a target")]
    NoTarget,
    /// Not an iSCSI name.
    #[error("it has a malformed target name")]
    Name,
    /// Not an address.
    #[error("it has a malformed address")]
    Address,
    /// More than [`MAX_PORTALS`] targets and portals.
    #[error("it lists more than {MAX_PORTALS} portals")]
    TooMany,
}

/// Adds one target to an answer.
///
/// # Errors
/// [`TextError::TooLong`] when the answer is full. The whole target is left out then, so the answer stays
/// well-formed.
pub fn write_target(out: &mut TextWriter, name: &str, addresses: &[TargetAddress]) -> Result<(), TextError> {
    let mut record = TextWriter::new();
    record.push("TargetName", name)?;
    for address in addresses {
        record.push("TargetAddress", address)?;
    }
    out.append(record)
}

/// Reads a complete answer. Names come as the target wrote them; those that name the same target become one
/// record.
///
/// # Errors
/// [`SendTargetsError`]; nothing of a malformed answer is used.
pub fn parse(text: &[u8]) -> Result<Vec<TargetRecord>, SendTargetsError> {
    let mut records: Vec<TargetRecord> = Vec::new();
    let mut current = None;
    for (count, pair) in Pairs::new(text).enumerate() {
        if count >= MAX_PORTALS {
            return Err(SendTargetsError::TooMany);
        }
        match pair? {
            ("TargetName", name) => {
                let key = normalize(name).map_err(|_| SendTargetsError::Name)?;
                let known = records.iter().position(|record| normalize(&record.name).as_ref() == Ok(&key));
                current = Some(known.unwrap_or(records.len()));
                if known.is_none() {
                    records.push(TargetRecord { name: name.into(), addresses: Vec::new() });
                }
            }
            ("TargetAddress", address) => {
                let record = current.and_then(|at| records.get_mut(at)).ok_or(SendTargetsError::NoTarget)?;
                let address = TargetAddress::parse(address).ok_or(SendTargetsError::Address)?;
                if !record.addresses.contains(&address) {
                    record.addresses.push(address);
                }
            }
            (other, _) => return Err(SendTargetsError::UnexpectedKey(Excerpt::new(other))),
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::MAX_TEXT_LEN;

    fn address(text: &str) -> TargetAddress {
        TargetAddress::parse(text).unwrap()
    }

    #[test]
    fn rfc_example_round_trips() {
        let text = b"TargetName=iqn.2001-04.com.example:disk1\0TargetAddress=192.0.2.5:3260,1\0\
            TargetAddress=[2001:db8::5]:3260,1\0";
        let records = parse(text).unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].addresses, [address("192.0.2.5:3260,1"), address("[2001:db8::5]:3260,1")]);
        let mut out = TextWriter::new();
        write_target(&mut out, &records[0].name, &records[0].addresses).unwrap();
        assert_eq!(out.as_bytes(), text);
    }

    #[test]
    fn addresses_may_be_short_or_absent() {
        let text = b"TargetName=iqn.2001-04.com.example:A\0TargetName=iqn.2001-04.com.example:b\0\
            TargetAddress=host\0TargetName=iqn.2001-04.com.example:a\0TargetAddress=h:1,65535\0TargetAddress=h:1,65535\0";
        let records = parse(text).unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].addresses, [address("h:1,65535")]);
        let short = &records[1].addresses[0];
        assert_eq!((short.portal.port, short.tag, short.to_string().as_str()), (3260, None, "host:3260"));
        assert_eq!(parse(b""), Ok(vec![]));
    }

    #[test]
    fn malformed_answers_are_refused() {
        assert_eq!(parse(b"TargetAddress=h\0"), Err(SendTargetsError::NoTarget));
        assert_eq!(parse(b"TargetName=disk\0"), Err(SendTargetsError::Name));
        assert_eq!(
            parse(b"TargetAlias=x\0"),
            Err(SendTargetsError::UnexpectedKey(Excerpt::new("TargetAlias")))
        );
        assert_eq!(parse(b"TargetName"), Err(SendTargetsError::Text(TextError::Unterminated)));
        for bad in ["", "h:99999", "h,x", "h,65536", "2001:db8::5,1", "[2001:db8::5,1"] {
            let text = format!("TargetName=iqn.2001-04.com.example\0TargetAddress={bad}\0");
            assert_eq!(parse(text.as_bytes()), Err(SendTargetsError::Address), "{bad}");
        }
        let many = "TargetName=iqn.2001-04.com.example\0".repeat(MAX_PORTALS + 1);
        assert_eq!(parse(many.as_bytes()), Err(SendTargetsError::TooMany));
    }

    #[test]
    fn a_full_answer_stays_well_formed() {
        let mut out = TextWriter::new();
        let portals = [address("192.0.2.5:3260,1"), address("[2001:db8::5]:3260,1")];
        let fitted =
            (0..).take_while(|n| write_target(&mut out, &format!("iqn.2001-04.com.x:{n}"), &portals).is_ok());
        let fitted = fitted.count();
        assert!(out.as_bytes().len() <= MAX_TEXT_LEN && fitted > 600, "{fitted}");
        let records = parse(out.as_bytes()).unwrap();
        assert!(records.len() == fitted && records.iter().all(|record| record.addresses.len() == 2));
    }
}
