//! INQUIRY data: the standard reply (SPC-4 6.6) and the vital product data pages 00, 80, 83, 86, B0, B1, B2
//! (SPC-4 7.8, SBC-4 6.6).

use super::{be16, be32, be64};

/// VPD page codes.
#[allow(missing_docs, reason = "the names are SPC-4's and SBC-3's own")]
pub mod vpd {
    pub const SUPPORTED_PAGES: u8 = 0x00;
    pub const SERIAL_NUMBER: u8 = 0x80;
    pub const DEVICE_IDENTIFICATION: u8 = 0x83;
    pub const EXTENDED_INQUIRY: u8 = 0x86;
    pub const THIRD_PARTY_COPY: u8 = 0x8F;
    pub const BLOCK_LIMITS: u8 = 0xB0;
    pub const CHARACTERISTICS: u8 = 0xB1;
    pub const PROVISIONING: u8 = 0xB2;
}

/// Peripheral qualifiers.
pub mod qualifier {
    /// A logical unit is there.
    pub const PRESENT: u8 = 0;
    /// Could be there and is not.
    pub const NOT_CONNECTED: u8 = 1;
    /// No logical unit here; with device type 1F.
    pub const UNSUPPORTED: u8 = 3;
}

/// Standard INQUIRY data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inquiry {
    /// Peripheral qualifier, see [`qualifier`].
    pub qualifier: u8,
    /// Peripheral device type: 0 disk, 1F none.
    pub device_type: u8,
    /// Removable medium.
    pub removable: bool,
    /// 5 SPC-3, 6 SPC-4.
    pub version: u8,
    /// TPGS 01b: REPORT TARGET PORT GROUPS, with states that only the target changes.
    pub port_groups: bool,
    /// 3PC: EXTENDED COPY.
    pub third_party_copy: bool,
    /// T10 vendor identification, space padded.
    pub vendor: [u8; 8],
    /// Product identification, space padded.
    pub product: [u8; 16],
    /// Product revision, space padded.
    pub revision: [u8; 4],
}

impl Inquiry {
    /// Length of what [`encode`](Self::encode) appends.
    pub const LEN: usize = 96;

    /// The answer for a LUN where nothing is: qualifier 3, type 1F.
    pub const ABSENT: Inquiry = Inquiry {
        qualifier: qualifier::UNSUPPORTED,
        device_type: 0x1F,
        removable: false,
        version: 6,
        port_groups: false,
        third_party_copy: false,
        vendor: [b' '; 8],
        product: [b' '; 16],
        revision: [b' '; 4],
    };

    /// Appends 96 bytes: SPC-4, response data format 2, HISUP, CMDQUE, version descriptors iSCSI, SPC-4 and
    /// SBC-3.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut data = [0; Self::LEN];
        data[0] = self.qualifier << 5 | self.device_type & 0x1F;
        data[1] = if self.removable { 0x80 } else { 0 };
        data[2] = self.version;
        data[3] = 0x12;
        data[4] = (Self::LEN - 5) as u8;
        data[5] = if self.port_groups { 0x10 } else { 0 } | if self.third_party_copy { 0x08 } else { 0 };
        data[7] = 0x02;
        data[8..16].copy_from_slice(&self.vendor);
        data[16..32].copy_from_slice(&self.product);
        data[32..36].copy_from_slice(&self.revision);
        for (slot, version) in data[58..].chunks_exact_mut(2).zip([0x0960u16, 0x0460, 0x04C0]) {
            slot.copy_from_slice(&version.to_be_bytes());
        }
        out.extend_from_slice(&data);
    }

    /// Reads the first 36 bytes; `None` when fewer arrived.
    pub fn parse(data: &[u8]) -> Option<Inquiry> {
        Some(Inquiry {
            qualifier: data.first()? >> 5,
            device_type: data[0] & 0x1F,
            removable: data.get(1)? & 0x80 != 0,
            version: *data.get(2)?,
            port_groups: data.get(5)? & 0x10 != 0,
            third_party_copy: data[5] & 0x08 != 0,
            vendor: data.get(8..16)?.try_into().ok()?,
            product: data.get(16..32)?.try_into().ok()?,
            revision: data.get(32..36)?.try_into().ok()?,
        })
    }

    /// Whether a logical unit answers here that can be used.
    pub fn is_present(&self) -> bool {
        self.qualifier == qualifier::PRESENT && self.device_type != 0x1F
    }
}

/// A VPD page under construction: header first, length filled in by [`end`](Self::end).
#[derive(Debug)]
pub struct VpdPage<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> VpdPage<'a> {
    /// Starts page `code` of a disk at the end of `out`.
    pub fn begin(code: u8, out: &'a mut Vec<u8>) -> VpdPage<'a> {
        let start = out.len();
        out.extend_from_slice(&[0, code, 0, 0]);
        VpdPage { out, start }
    }

    /// Appends bytes.
    pub fn put(self, bytes: &[u8]) -> Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// Appends one designation descriptor (page 83).
    pub fn designator(self, designator: &Designator<'_>) -> Self {
        let d = designator;
        let protocol = d.protocol.map_or(0, |p| p << 4);
        let piv = if d.protocol.is_some() { 0x80 } else { 0 };
        let len = d.data.len().min(255);
        let head = [protocol | d.code_set & 0xF, piv | d.association << 4 | d.kind & 0xF, 0, len as u8];
        self.put(&head).put(&d.data[..len])
    }

    /// Fills in the length.
    pub fn end(self) {
        let len = (self.out.len() - self.start - 4) as u16;
        self.out[self.start + 2..self.start + 4].copy_from_slice(&len.to_be_bytes());
    }
}

/// The payload of a VPD reply: `None` when the header did not arrive or names another page.
pub fn vpd_payload(code: u8, data: &[u8]) -> Option<&[u8]> {
    let len = usize::from(be16(data, 2)?);
    let payload = data.get(4..)?;
    (data[1] == code).then(|| &payload[..payload.len().min(len)])
}

/// One designation descriptor of page 83.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Designator<'a> {
    /// Protocol identifier when PIV is set (5 = iSCSI).
    pub protocol: Option<u8>,
    /// 1 binary, 2 ASCII, 3 UTF-8.
    pub code_set: u8,
    /// 0 logical unit, 1 target port, 2 target device.
    pub association: u8,
    /// Designator type: 1 T10 vendor, 2 EUI-64, 3 NAA, 4 relative port, 5 port group, 8 SCSI name string.
    pub kind: u8,
    /// The designator.
    pub data: &'a [u8],
}

/// The complete descriptors in the payload of page 83.
pub fn designators(payload: &[u8]) -> impl Iterator<Item = Designator<'_>> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        let [a, b, _, len, ..] = *rest else { return None };
        let data = rest.get(4..4 + usize::from(len))?;
        rest = &rest[4 + data.len()..];
        Some(Designator {
            protocol: (b & 0x80 != 0).then_some(a >> 4),
            code_set: a & 0xF,
            association: b >> 4 & 3,
            kind: b & 0xF,
            data,
        })
    })
}

/// Page B0: limits in logical blocks; 0 means not reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockLimits {
    /// Longest COMPARE AND WRITE; 0 where it is not supported.
    pub max_compare_and_write: u8,
    /// Longest READ, WRITE and VERIFY.
    pub max_transfer: u32,
    /// Preferred transfer.
    pub optimal_transfer: u32,
    /// Longest PRE-FETCH.
    pub max_prefetch: u32,
    /// Most blocks that one UNMAP may name.
    pub max_unmap_blocks: u32,
    /// Most descriptors in one UNMAP.
    pub max_unmap_descriptors: u32,
    /// Preferred UNMAP granularity.
    pub unmap_granularity: u32,
    /// Longest WRITE SAME.
    pub max_write_same: u64,
    /// Longest WRITE ATOMIC; 0 where it is not supported.
    pub max_atomic: u32,
    /// What the first block of a WRITE ATOMIC has to be a multiple of.
    pub atomic_alignment: u32,
    /// What the length of a WRITE ATOMIC has to be a multiple of.
    pub atomic_granularity: u32,
}

impl BlockLimits {
    /// Appends the whole page (64 bytes).
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut data = [0u8; 60];
        data[1] = self.max_compare_and_write;
        data[4..8].copy_from_slice(&self.max_transfer.to_be_bytes());
        data[8..12].copy_from_slice(&self.optimal_transfer.to_be_bytes());
        data[12..16].copy_from_slice(&self.max_prefetch.to_be_bytes());
        data[16..20].copy_from_slice(&self.max_unmap_blocks.to_be_bytes());
        data[20..24].copy_from_slice(&self.max_unmap_descriptors.to_be_bytes());
        data[24..28].copy_from_slice(&self.unmap_granularity.to_be_bytes());
        data[32..40].copy_from_slice(&self.max_write_same.to_be_bytes());
        data[40..44].copy_from_slice(&self.max_atomic.to_be_bytes());
        data[44..48].copy_from_slice(&self.atomic_alignment.to_be_bytes());
        data[48..52].copy_from_slice(&self.atomic_granularity.to_be_bytes());
        VpdPage::begin(vpd::BLOCK_LIMITS, out).put(&data).end();
    }

    /// Reads the payload that [`vpd_payload`] returned. The short SBC-2 page has no UNMAP and WRITE SAME
    /// fields: zeros.
    pub fn parse(payload: &[u8]) -> Option<BlockLimits> {
        Some(BlockLimits {
            max_compare_and_write: *payload.get(1)?,
            max_transfer: be32(payload, 4)?,
            optimal_transfer: be32(payload, 8)?,
            max_prefetch: be32(payload, 12).unwrap_or(0),
            max_unmap_blocks: be32(payload, 16).unwrap_or(0),
            max_unmap_descriptors: be32(payload, 20).unwrap_or(0),
            unmap_granularity: be32(payload, 24).unwrap_or(0),
            max_write_same: be64(payload, 32).unwrap_or(0),
            max_atomic: be32(payload, 40).unwrap_or(0),
            atomic_alignment: be32(payload, 44).unwrap_or(0),
            atomic_granularity: be32(payload, 48).unwrap_or(0),
        })
    }
}

/// Page B2: what unmapping can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provisioning {
    /// LBPU: UNMAP.
    pub unmap: bool,
    /// LBPWS: WRITE SAME(16) with the UNMAP bit. (LBPWS10 is never set: the 10-byte form does not take the
    /// bit here.)
    pub write_same_unmap: bool,
    /// LBPRZ: unmapped blocks read as zeros.
    pub reads_zeros: bool,
    /// Provisioning type: 0 full, 1 resource, 2 thin.
    pub kind: u8,
}

impl Provisioning {
    /// Appends the whole page (8 bytes).
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags = if self.unmap { 0x80 } else { 0 }
            | if self.write_same_unmap { 0x40 } else { 0 }
            | if self.reads_zeros { 0x04 } else { 0 };
        VpdPage::begin(vpd::PROVISIONING, out).put(&[0, flags, self.kind & 7, 0]).end();
    }

    /// Reads the payload that [`vpd_payload`] returned.
    pub fn parse(payload: &[u8]) -> Option<Provisioning> {
        let flags = *payload.get(1)?;
        Some(Provisioning {
            unmap: flags & 0x80 != 0,
            write_same_unmap: flags & 0x40 != 0,
            reads_zeros: flags & 0x04 != 0,
            kind: payload.get(2)? & 7,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn standard_data_round_trips() {
        let disk = Inquiry {
            qualifier: 0,
            device_type: 0,
            removable: false,
            version: 6,
            port_groups: true,
            third_party_copy: false,
            vendor: *b"CNIC    ",
            product: *b"RAM DISK        ",
            revision: *b"1   ",
        };
        let mut data = Vec::new();
        disk.encode(&mut data);
        assert_eq!(data.len(), 96);
        assert_eq!(data[..8], [0, 0, 6, 0x12, 91, 0x10, 0, 2]);
        assert_eq!(data[58..64], [0x09, 0x60, 0x04, 0x60, 0x04, 0xC0]);
        assert_eq!(Inquiry::parse(&data[..36]), Some(disk));
        assert_eq!(Inquiry::parse(&data[..35]), None);
        data.clear();
        Inquiry::ABSENT.encode(&mut data);
        assert_eq!(data[0], 0x7F);
        assert!(disk.is_present() && !Inquiry::ABSENT.is_present());
    }

    #[test]
    fn designators_round_trip_and_stop_at_a_cut() {
        let naa = Designator { protocol: None, code_set: 1, association: 0, kind: 3, data: &[0x60; 16] };
        let name = Designator {
            protocol: Some(5),
            code_set: 3,
            association: 1,
            kind: 8,
            data: b"iqn.a,t,0x0001\0\0",
        };
        let mut out = Vec::new();
        VpdPage::begin(vpd::DEVICE_IDENTIFICATION, &mut out).designator(&naa).designator(&name).end();
        assert_eq!(out[..8], [0, 0x83, 0, 40, 1, 3, 0, 16]);
        let payload = vpd_payload(0x83, &out).unwrap();
        assert_eq!(designators(payload).collect::<Vec<_>>(), [naa, name]);
        assert_eq!(designators(&payload[..30]).count(), 1);
        assert!(vpd_payload(0x80, &out).is_none());
    }

    #[test]
    fn limits_and_provisioning_round_trip() {
        let limits = BlockLimits {
            max_compare_and_write: 11,
            max_transfer: 1,
            optimal_transfer: 2,
            max_prefetch: 7,
            max_unmap_blocks: 3,
            max_unmap_descriptors: 4,
            unmap_granularity: 5,
            max_write_same: 6,
            max_atomic: 8,
            atomic_alignment: 9,
            atomic_granularity: 10,
        };
        let mut out = Vec::new();
        limits.encode(&mut out);
        assert_eq!((out.len(), out[3]), (64, 0x3C));
        assert_eq!(out[5], 11);
        assert_eq!(out[8..20], [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 7]);
        assert_eq!(out[44..56], [0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 10]);
        assert_eq!(out[20..32], [0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5]);
        assert_eq!(out[36..44], [0, 0, 0, 0, 0, 0, 0, 6]);
        assert_eq!(BlockLimits::parse(vpd_payload(vpd::BLOCK_LIMITS, &out).unwrap()), Some(limits));

        let thin = Provisioning { unmap: true, write_same_unmap: true, reads_zeros: true, kind: 2 };
        out.clear();
        thin.encode(&mut out);
        assert_eq!(out, [0, 0xB2, 0, 4, 0, 0xC4, 2, 0]);
        assert_eq!(Provisioning::parse(vpd_payload(vpd::PROVISIONING, &out).unwrap()), Some(thin));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Inquiry::parse(&bytes);
            if let Some(payload) = vpd_payload(*bytes.get(1).unwrap_or(&0), &bytes) {
                let _ = (designators(payload).count(), BlockLimits::parse(payload), Provisioning::parse(payload));
            }
        }
    }
}
