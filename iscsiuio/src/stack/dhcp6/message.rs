//! DHCPv6 messages as a client of addresses needs them (RFC 8415 8, 21): a reader that borrows, and a writer.
//!
//! Everything comes from strangers: lengths are checked before use, nothing is allocated while reading, and
//! no value is calculated with. Options that are not asked for are passed over; what is cut off makes its
//! list malformed, and with it the message. Not modelled: relay messages, and options other than those of the
//! [`option`] module.

use std::net::Ipv6Addr;

/// Message types (RFC 8415 7.3).
pub(crate) mod kind {
    pub(crate) const SOLICIT: u8 = 1;
    pub(crate) const ADVERTISE: u8 = 2;
    pub(crate) const REQUEST: u8 = 3;
    pub(crate) const RENEW: u8 = 5;
    pub(crate) const REBIND: u8 = 6;
    pub(crate) const REPLY: u8 = 7;
    pub(crate) const DECLINE: u8 = 9;
}

/// Option codes (RFC 8415 24).
pub(crate) mod option {
    pub(crate) const CLIENT_ID: u16 = 1;
    pub(crate) const SERVER_ID: u16 = 2;
    pub(crate) const IA_NA: u16 = 3;
    pub(crate) const IA_ADDR: u16 = 5;
    pub(crate) const ORO: u16 = 6;
    pub(crate) const ELAPSED_TIME: u16 = 8;
    pub(crate) const STATUS_CODE: u16 = 13;
}

/// Status code of success.
pub(crate) const SUCCESS: u16 = 0;

/// A list of options that is whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// Checks that the list ends where its last option ends.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        while !rest.is_empty() {
            (_, rest) = split(rest)?;
        }
        Some(Self(bytes))
    }

    fn iter(self) -> impl Iterator<Item = Item<'a>> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (option, more) = split(rest)?;
            rest = more;
            Some(option)
        })
    }

    /// The first option of that code.
    pub(crate) fn get(self, code: u16) -> Option<&'a [u8]> {
        self.all(code).next()
    }

    /// All options of that code.
    pub(crate) fn all(self, code: u16) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |o| o.0 == code).map(|o| o.1)
    }

    /// The status code; without one it is success (RFC 8415 21.13). One that is cut off is no success.
    pub(crate) fn status(self) -> u16 {
        match self.get(option::STATUS_CODE) {
            None => SUCCESS,
            Some([a, b, ..]) => u16::from_be_bytes([*a, *b]),
            Some(_) => u16::MAX,
        }
    }
}

/// Code and value.
type Item<'a> = (u16, &'a [u8]);

/// The first option, and what follows.
fn split(bytes: &[u8]) -> Option<(Item<'_>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    let [a, b, c, d] = *head;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([c, d])))?;
    Some(((u16::from_be_bytes([a, b]), value), rest))
}

/// A message between client and server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u8,
    pub(crate) xid: [u8; 3],
    pub(crate) options: Options<'a>,
}

impl<'a> Message<'a> {
    /// Reads a datagram; `None` when it is malformed.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (&[kind, a, b, c], options) = bytes.split_first_chunk::<4>()?;
        Some(Self { kind, xid: [a, b, c], options: Options::parse(options)? })
    }
}

/// An association of addresses (IA_NA), times in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Association<'a> {
    pub(crate) id: u32,
    pub(crate) t1: u32,
    pub(crate) t2: u32,
    pub(crate) options: Options<'a>,
}

impl<'a> Association<'a> {
    pub(crate) fn parse(value: &'a [u8]) -> Option<Self> {
        let (head, options) = value.split_first_chunk::<12>()?;
        let [id, t1, t2] = words(head);
        Some(Self { id, t1, t2, options: Options::parse(options)? })
    }
}

/// An address of an association, lifetimes in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address<'a> {
    pub(crate) ip: Ipv6Addr,
    pub(crate) preferred: u32,
    pub(crate) valid: u32,
    pub(crate) options: Options<'a>,
}

impl<'a> Address<'a> {
    pub(crate) fn parse(value: &'a [u8]) -> Option<Self> {
        let (ip, rest) = value.split_first_chunk::<16>()?;
        let (lives, options) = rest.split_first_chunk::<8>()?;
        let [preferred, valid] = words(lives);
        Some(Self { ip: Ipv6Addr::from(*ip), preferred, valid, options: Options::parse(options)? })
    }
}

/// Big-endian words.
fn words<const BYTES: usize, const N: usize>(bytes: &[u8; BYTES]) -> [u32; N] {
    let mut out = [0; N];
    for (word, four) in out.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_be_bytes([four[0], four[1], four[2], four[3]]);
    }
    out
}

/// A message that is being written.
#[derive(Debug)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(kind: u8, xid: [u8; 3]) -> Self {
        Self(vec![kind, xid[0], xid[1], xid[2]])
    }

    /// Adds an option whose value is what `fill` appends. What we write is far below 64 KiB.
    pub(crate) fn option(&mut self, code: u16, fill: impl FnOnce(&mut Self)) {
        self.0.extend(code.to_be_bytes());
        let at = self.0.len();
        self.put(&[0; 2]);
        fill(self);
        let length = u16::try_from(self.0.len() - at - 2).unwrap_or(u16::MAX);
        self.0[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }

    /// Appends bytes to the option that is open.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Appends an address without lifetimes: we ask, the server decides.
    pub(crate) fn address(&mut self, ip: Ipv6Addr) {
        self.option(option::IA_ADDR, |w| {
            w.put(&ip.octets());
            w.put(&[0; 8]);
        });
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks_exact(2);
        digits.map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
    }

    /// Messages of dnsmasq 2.90, to a client with the MAC 02:10:18:aa:bb:cd.
    const ADVERTISE: &str = "021122330001000a00030001021018aabbcd0002000e0001000132a117c9525b2ab0f03a\
        0003002818aabbcd00000e100000189c00050018fd0000000000000000000000000001c300001c2000001c20\
        000d00090000737563636573730007000100";
    const REFUSAL: &str = "077788990001000a00030001021018aabbcd0002000e0001000132a117c9525b2ab0f03a\
        0003002218aabbcd0000000000000000000d001200036e6f2062696e64696e6720666f756e64";

    #[test]
    fn messages_of_dnsmasq_are_read() {
        let raw = bytes(ADVERTISE);
        let m = Message::parse(&raw).unwrap();
        assert_eq!((m.kind, m.xid, m.options.status()), (kind::ADVERTISE, [0x11, 0x22, 0x33], SUCCESS));
        assert_eq!(m.options.get(option::CLIENT_ID).unwrap(), bytes("00030001021018aabbcd"));
        assert_eq!(m.options.get(option::SERVER_ID).unwrap(), bytes("0001000132a117c9525b2ab0f03a"));
        let ia = Association::parse(m.options.get(option::IA_NA).unwrap()).unwrap();
        assert_eq!((ia.id, ia.t1, ia.t2, ia.options.status()), (0x18aa_bbcd, 3600, 6300, SUCCESS));
        let address = Address::parse(ia.options.get(option::IA_ADDR).unwrap()).unwrap();
        assert_eq!(address.ip, "fd00::1c3".parse::<Ipv6Addr>().unwrap());
        assert_eq!((address.preferred, address.valid, address.options.status()), (7200, 7200, SUCCESS));

        let raw = bytes(REFUSAL);
        let m = Message::parse(&raw).unwrap();
        let ia = Association::parse(m.options.get(option::IA_NA).unwrap()).unwrap();
        assert_eq!((m.kind, ia.options.status(), ia.options.get(option::IA_ADDR)), (kind::REPLY, 3, None));
    }

    /// A REQUEST that dnsmasq has answered.
    #[test]
    fn what_is_written_is_what_dnsmasq_understands() {
        let want = "034455660001000a00030001021018aabbcd0002000e0001000132a117c9525b2ab0f03a000800020000\
            0003002818aabbcd000000000000000000050018fd0000000000000000000000000001c30000000000000000\
            00060006001000110017";
        let mut w = Writer::new(kind::REQUEST, [0x44, 0x55, 0x66]);
        w.option(option::CLIENT_ID, |w| w.put(&bytes("00030001021018aabbcd")));
        w.option(option::SERVER_ID, |w| w.put(&bytes("0001000132a117c9525b2ab0f03a")));
        w.option(option::ELAPSED_TIME, |w| w.put(&[0, 0]));
        w.option(option::IA_NA, |w| {
            w.put(&bytes("18aabbcd0000000000000000"));
            w.address("fd00::1c3".parse().unwrap());
        });
        w.option(option::ORO, |w| w.put(&bytes("001000110017")));
        assert_eq!(w.finish(), bytes(want));
    }

    #[test]
    fn what_is_cut_off_is_malformed() {
        let raw = bytes(ADVERTISE);
        let ends = raw.len();
        let whole: Vec<usize> = (0..=ends).filter(|&end| Message::parse(&raw[..end]).is_some()).collect();
        // Only between two options: behind the header, the client's, the server's, IA_NA, status and
        // preference.
        assert_eq!(whole, [4, 18, 36, 80, 93, 98]);
        for bad in ["", "01", "010000", "01000000000d", "01000000000d0003000a", "0100000000010001"] {
            assert!(Message::parse(&bytes(bad)).is_none(), "{bad}");
        }
        assert!(Association::parse(&[0; 11]).is_none() && Address::parse(&[0; 23]).is_none());
        assert!(Association::parse(&bytes("18aabbcd0000000000000000000500ff")).is_none());
        let cut = Message::parse(&bytes("01000000000d000100")).map(|m| m.options.status());
        assert_eq!(cut, Some(u16::MAX), "a status without its code is no success");
    }

    proptest! {
        #[test]
        fn any_datagram_is_read_or_refused(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(m) = Message::parse(&raw) {
                for value in m.options.all(option::IA_NA) {
                    let ia = Association::parse(value);
                    let addresses = ia.map(|ia| ia.options.all(option::IA_ADDR).filter_map(Address::parse).count());
                    prop_assert!(addresses.unwrap_or(0) <= raw.len() / 28);
                }
            }
        }
    }
}
