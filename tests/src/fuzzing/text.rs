//! Text of login and discovery, names and addresses, and PDU framing.

use iscsi::digest::{data_digest, header_digest};
use iscsi::framing::{Event, Framer};
use iscsi::names::{HostPort, IscsiUrl, normalize};
use iscsi::pdu::{Bhs, MAX_DATA_SEGMENT_LEN};
use iscsi::sendtargets::{self, TargetAddress};
use iscsi::text::{self, Pairs, TextCollector, TextSplitter, TextWriter};

use super::Cursor;

/// Lists survive being written again, values being formatted again, and what does not parse is an error.
pub(super) fn keys(input: &[u8]) {
    let mut c = Cursor::new(input);
    match c.byte() % 6 {
        0 => {
            let bytes = c.rest();
            let pairs: Result<Vec<_>, _> = Pairs::new(bytes).collect();
            let Ok(pairs) = pairs else { return };
            let mut out = TextWriter::new();
            for (key, value) in &pairs {
                if out.push(key, value).is_err() {
                    return;
                }
            }
            let again: Vec<_> =
                Pairs::new(out.as_bytes()).map(|p| p.expect("it was written by us")).collect();
            assert_eq!(again, pairs);
        }
        1 => {
            let text = String::from_utf8_lossy(c.rest());
            let limit = 64;
            if let Some(bytes) = text::binary(&text, limit) {
                assert!(bytes.len() <= limit);
                assert_eq!(text::binary(&text::hex_text(&bytes), limit).as_ref(), Some(&bytes));
                assert_eq!(text::binary(&text::base64_text(&bytes), limit).as_ref(), Some(&bytes));
            }
            if let Some(n) = text::number(&text) {
                assert_eq!(text::number(&n.to_string()), Some(n));
            }
            if let Some((low, high)) = text::range(&text) {
                assert!(low <= high);
            }
            let _ = (text::boolean(&text), text::list(&text).count());
        }
        2 => {
            let text = String::from_utf8_lossy(c.rest());
            if let Ok(name) = normalize(&text) {
                assert_eq!(normalize(&name).as_ref(), Ok(&name), "a normal form is its own normal form");
            }
            if let Some(at) = HostPort::parse(&text) {
                assert_eq!(HostPort::parse(&at.to_string()), Some(at));
            }
            if let Some(at) = TargetAddress::parse(&text) {
                assert_eq!(TargetAddress::parse(&at.to_string()), Some(at));
            }
            let _ = text.parse::<IscsiUrl>();
        }
        3 => {
            let bytes = c.rest();
            if let Ok(records) = sendtargets::parse(bytes) {
                assert!(records.len() <= bytes.len());
                let mut out = TextWriter::new();
                let fits = records
                    .iter()
                    .all(|r| sendtargets::write_target(&mut out, &r.name, &r.addresses).is_ok());
                if fits {
                    assert_eq!(sendtargets::parse(out.as_bytes()).as_ref(), Ok(&records));
                }
            }
        }
        4 => {
            // A list that was split comes together again.
            let limit = 1 + usize::from(c.byte());
            let whole = c.rest();
            let mut out = TextWriter::new();
            if out.push("X-fuzz", String::from_utf8_lossy(whole)).is_err() {
                return;
            }
            let list = out.as_bytes().to_vec();
            let mut splitter = TextSplitter::new(out.into_bytes());
            let mut collector = TextCollector::new();
            for _ in 0..=list.len() {
                let (piece, more) = splitter.next_piece(limit);
                let got = collector.push(piece, more).expect("it fits");
                assert_eq!(got.is_some(), !more);
                if let Some(got) = got {
                    assert_eq!(got, list);
                    return;
                }
            }
            panic!("the splitter does not end");
        }
        _ => {
            let mut collector = TextCollector::new();
            while !c.is_empty() {
                let more = c.byte() & 1 != 0;
                if let Ok(Some(list)) = collector.push(c.block(), more) {
                    let _ = Pairs::new(&list).count();
                }
            }
        }
    }
}

/// What a framer said of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Framed {
    headers: Vec<[u8; 48]>,
    ahs: Vec<Vec<u8>>,
    data: Vec<u8>,
    ends: Vec<bool>,
    error: Option<String>,
}

fn frame(stream: &[u8], digests: (bool, bool), limit: u32, piece: usize) -> Framed {
    let mut framer = Framer::new(limit);
    framer.configure(digests.0, digests.1, limit).expect("nothing was consumed");
    let mut seen = Framed::default();
    for mut bytes in stream.chunks(piece.max(1)) {
        loop {
            let wanted = framer.wanted();
            match framer.next(&mut bytes) {
                Ok(None) => {
                    assert!(bytes.is_empty(), "no event, and bytes left");
                    break;
                }
                Ok(Some(Event::Header)) => {
                    let _ = framer.bhs().pdu();
                    seen.headers.push(*framer.bhs().wire());
                    seen.ahs.push(framer.ahs().to_vec());
                    assert!(framer.data_remaining() <= limit);
                }
                Ok(Some(Event::Data { bytes, .. })) => {
                    assert!(bytes.len() <= wanted);
                    seen.data.extend_from_slice(bytes);
                }
                Ok(Some(Event::End { data_digest_ok })) => seen.ends.push(data_digest_ok),
                Err(e) => {
                    assert_eq!(framer.next(&mut &[0][..]).err(), Some(e), "an error stays");
                    seen.error = Some(e.to_string());
                    return seen;
                }
            }
        }
    }
    seen
}

/// A stream gives the same PDUs in whatever pieces it arrives.
pub(super) fn framing(input: &[u8]) {
    let mut c = Cursor::new(input);
    let flags = c.byte();
    let digests = (flags & 1 != 0, flags & 2 != 0);
    let limit = [512, 8192, 65_536, MAX_DATA_SEGMENT_LEN][usize::from(flags >> 6)];
    let piece = usize::from(c.byte());
    let mut stream = Vec::new();
    while !c.is_empty() && stream.len() < 1 << 14 {
        let how = c.byte();
        if how & 0x80 != 0 {
            stream.extend_from_slice(c.block());
            continue;
        }
        // A PDU whose lengths and digests hold, but for one in eight.
        let mut bhs = *Bhs::from_bytes(&c.array());
        let ahs = c.block();
        let ahs = &ahs[..ahs.len() & !3];
        let data = c.block();
        let spoilt = how & 7 == 7;
        if !spoilt {
            bhs.total_ahs_length = (ahs.len() / 4) as u8;
            bhs.data_segment_length.set(data.len() as u32);
        }
        stream.extend_from_slice(bhs.wire());
        stream.extend_from_slice(ahs);
        if digests.0 {
            let mut d = header_digest(bhs.wire(), ahs);
            d[0] ^= u8::from(how & 7 == 6);
            stream.extend_from_slice(&d);
        }
        stream.extend_from_slice(data);
        stream.resize(stream.len().next_multiple_of(4), 0);
        if digests.1 && !data.is_empty() {
            let mut d = data_digest(data);
            d[0] ^= u8::from(how & 7 == 5);
            stream.extend_from_slice(&d);
        }
    }
    let whole = frame(&stream, digests, limit, usize::MAX);
    assert_eq!(frame(&stream, digests, limit, piece), whole);
    assert!(whole.ends.len() <= whole.headers.len());
}
