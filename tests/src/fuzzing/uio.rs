//! Both ends of the uio socket: whatever bytes and descriptors arrive, an end keeps little, and says no once
//! and for all.

use std::os::fd::{AsFd, OwnedFd};

use bus::uio::FromHelper;
use bus::uio::socket::{Exporter, UioClient};
use os::event::Event;
use os::shm;

use super::Cursor;

/// A descriptor: an event counter, or memory of some size.
fn descriptor(kind: u8) -> OwnedFd {
    if kind & 3 == 0 {
        return Event::new().expect("a descriptor").as_fd().try_clone_to_owned().expect("a descriptor");
    }
    shm::memfd("fuzz", u64::from(kind) << 12).expect("memory")
}

/// A message whose length is right, mostly of a kind that there is.
fn message(c: &mut Cursor<'_>) -> (Vec<u8>, Vec<OwnedFd>) {
    let how = c.byte();
    let kind = if how & 0x80 != 0 { c.byte() } else { c.pick(&[0, 1, 2, 3, 4, 5, 16, 17, 18, 19, 20]) };
    let mut body = c.block().to_vec();
    let mut fds = Vec::new();
    if kind == 4 && how & 0x40 != 0 {
        // An Opened whose memory has the sizes that it should have.
        body.clear();
        body.extend_from_slice(&c.u32().to_le_bytes());
        for len in [bus::uio::STATUS_BYTES, bus::uio::RING_BYTES, bus::uio::BUFFERS_BYTES] {
            let at = if how & 0x20 != 0 { c.u32() << 12 } else { 0 };
            body.extend_from_slice(&u64::from(at).to_le_bytes());
            body.extend_from_slice(&(len as u32).to_le_bytes());
            let short = if how & 0x10 != 0 { len / 2 } else { len };
            fds.push(shm::memfd("fuzz", short as u64).expect("memory"));
        }
        body.extend_from_slice(&[0, 0]);
        fds.push(descriptor(0));
    } else {
        fds.extend((0..how & 7).map(|n| descriptor(n & 1)));
    }
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&[kind, fds.len() as u8, 0, 0]);
    bytes.extend_from_slice(&body);
    (bytes, fds)
}

pub(super) fn run(input: &[u8]) {
    let mut c = Cursor::new(input);
    let (mut exporter, mut client) = (Exporter::default(), UioClient::default());
    let first = c.byte();
    let to_client = first & 1 != 0;
    if first & 2 == 0 {
        // Greeted, as life begins.
        let (hello, mut none) = (client.outbox.next().expect("a hello").0.to_vec(), Vec::new());
        exporter.received(&hello, Vec::new(), &mut none).expect("our own hello");
        let mut none = Vec::new();
        client.received(&hello, Vec::new(), &mut none).expect("our own hello");
    }
    for _ in 0..64 {
        if c.is_empty() {
            break;
        }
        let (bytes, fds) = if c.byte() & 7 == 7 { (c.block().to_vec(), Vec::new()) } else { message(&mut c) };
        let failed = if to_client {
            let mut out = Vec::new();
            let failed = client.received(&bytes, fds, &mut out).is_err();
            assert!(out.len() <= bytes.len() / 8 + 64);
            failed
        } else {
            let mut out = Vec::new();
            let failed = exporter.received(&bytes, fds, &mut out).is_err();
            for m in &out {
                // What was read is written as something that is read as the same.
                assert_eq!(again(m), Some(m.clone()));
            }
            failed
        };
        if failed {
            return;
        }
    }
}

fn again(message: &FromHelper) -> Option<FromHelper> {
    let (mut exporter, mut client) = (Exporter::default(), UioClient::default());
    client.say(message).ok()?;
    let mut out = Vec::new();
    while let Some((bytes, _)) = client.outbox.next() {
        let bytes = bytes.to_vec();
        client.outbox.sent(bytes.len());
        exporter.received(&bytes, Vec::new(), &mut out).ok()?;
    }
    out.pop()
}
