//! Version negotiation: what each side can take, as JSON in the first message.
//!
//! One member is of our own, `cnic_slot`: a client that proposes it is offered the slot's state page and
//! mapped doorbells ([`super::doorbell`]). QEMU does not propose it, and so keeps its writes posted: it stops
//! posting as soon as any region can be mapped.

use serde_json::{Map, Value, json};

use super::errno::Errno;

/// Major version of the protocol.
pub const MAJOR: u16 = 0;
/// Highest minor version that we speak.
pub const MINOR: u16 = 1;
/// Longest capability text accepted.
pub const TEXT_LIMIT: usize = 4096;
/// Page size of DMA maps.
pub const PAGE: u64 = 4096;
/// Most data in one message, by default and at most.
pub const MAX_DATA: usize = 1 << 20;
/// Descriptors in one message. QEMU accepts no larger value.
pub const MAX_FDS: usize = 16;
/// Maps at one time. Below the kernel's default limit of mappings of a process.
pub const MAX_MAPS: usize = 4096;

/// What one side can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Descriptors in one message.
    pub max_fds: usize,
    /// Bytes of data in one region or DMA access.
    pub max_data: usize,
    /// Maps at one time.
    pub max_maps: usize,
    /// Whether REGION_WRITE_MULTI is understood.
    pub write_multiple: bool,
    /// Whether the slot's state page is understood.
    pub slot: bool,
}

impl Default for Capabilities {
    /// What this implementation can take.
    fn default() -> Self {
        Self { max_fds: MAX_FDS, max_data: MAX_DATA, max_maps: MAX_MAPS, write_multiple: true, slot: true }
    }
}

impl Capabilities {
    /// What the specification says of a peer that says nothing.
    const SILENT: Self =
        Self { max_fds: 1, max_data: MAX_DATA, max_maps: 65_535, write_multiple: false, slot: false };

    /// The text, with its terminating NUL.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut c = Map::new();
        c.insert("max_msg_fds".into(), json!(self.max_fds));
        c.insert("max_data_xfer_size".into(), json!(self.max_data));
        c.insert("max_dma_maps".into(), json!(self.max_maps));
        c.insert("pgsizes".into(), json!(PAGE));
        if self.write_multiple {
            c.insert("write_multiple".into(), json!(true));
        }
        if self.slot {
            c.insert("cnic_slot".into(), json!(true));
        }
        let mut text = json!({ "capabilities": c }).to_string().into_bytes();
        text.push(0);
        text
    }

    /// Reads a peer's text; an empty one says nothing. Unknown members are skipped.
    ///
    /// # Errors
    /// `EINVAL` when it is no JSON object, not terminated, too long, or a member has another type;
    /// `EOPNOTSUPP` when the peer cannot use pages of 4 KiB.
    pub fn decode(text: &[u8]) -> Result<Self, Errno> {
        let mut out = Self::SILENT;
        if text.is_empty() {
            return Ok(out);
        }
        let json = text.strip_suffix(&[0]).filter(|t| t.len() < TEXT_LIMIT).ok_or(Errno::EINVAL)?;
        let value: Value = serde_json::from_slice(json).map_err(|_| Errno::EINVAL)?;
        let all = value.as_object().ok_or(Errno::EINVAL)?;
        let Some(c) = all.get("capabilities") else { return Ok(out) };
        let c = c.as_object().ok_or(Errno::EINVAL)?;
        let number = |name: &str, default: usize| match c.get(name) {
            None => Ok(default),
            Some(v) => v.as_u64().and_then(|v| usize::try_from(v).ok()).ok_or(Errno::EINVAL),
        };
        let flag = |name: &str| c.get(name).map_or(Ok(false), |v| v.as_bool().ok_or(Errno::EINVAL));
        out.max_fds = number("max_msg_fds", out.max_fds)?;
        out.max_data = number("max_data_xfer_size", out.max_data)?;
        out.max_maps = number("max_dma_maps", out.max_maps)?;
        out.write_multiple = flag("write_multiple")?;
        out.slot = flag("cnic_slot")?;
        if out.max_data == 0 {
            return Err(Errno::EINVAL);
        }
        match number("pgsizes", PAGE as usize)? as u64 & PAGE {
            0 => Err(Errno::EOPNOTSUPP),
            _ => Ok(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(json: &str) -> Result<Capabilities, Errno> {
        Capabilities::decode(format!("{json}\0").as_bytes())
    }

    #[test]
    fn what_one_side_says_the_other_understands() {
        let all = Capabilities::default();
        let some =
            Capabilities { max_fds: 3, max_data: 4096, max_maps: 9, write_multiple: false, slot: false };
        for c in [all, some] {
            assert_eq!(Capabilities::decode(&c.encode()), Ok(c));
        }
    }

    #[test]
    fn what_is_not_said_has_the_default_of_the_specification() {
        for text in ["{}", r#"{"capabilities":{}}"#, r#"{"capabilities":{"migration":{"pgsize":4096}}}"#] {
            assert_eq!(decode(text), Ok(Capabilities::SILENT), "{text}");
        }
        assert_eq!(Capabilities::decode(b""), Ok(Capabilities::SILENT));
    }

    #[test]
    fn what_qemu_proposes() {
        let c = decode(
            r#"{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576,"pgsizes":4096,"max_dma_maps":65535,
            "migration":{"pgsize":4096,"max_bitmap_size":268435456},"write_multiple":true}}"#,
        );
        let expected = Capabilities { max_fds: 8, max_maps: 65_535, slot: false, ..Capabilities::default() };
        assert_eq!(c, Ok(expected));
    }

    #[test]
    fn malformed_members_are_refused() {
        for text in [
            "",
            "[]",
            "{",
            r#"{"capabilities":7}"#,
            r#"{"capabilities":{"max_msg_fds":"8"}}"#,
            r#"{"capabilities":{"max_msg_fds":-1}}"#,
            r#"{"capabilities":{"max_data_xfer_size":0}}"#,
            r#"{"capabilities":{"max_dma_maps":1.5}}"#,
            r#"{"capabilities":{"write_multiple":1}}"#,
            r#"{"capabilities":{"cnic_slot":"yes"}}"#,
        ] {
            assert_eq!(decode(text), Err(Errno::EINVAL), "{text}");
        }
        assert_eq!(Capabilities::decode(b"{}"), Err(Errno::EINVAL), "not terminated");
        assert_eq!(decode(&format!("{{{}}}", " ".repeat(TEXT_LIMIT))), Err(Errno::EINVAL));
        assert_eq!(decode(r#"{"capabilities":{"pgsizes":65536}}"#), Err(Errno::EOPNOTSUPP));
    }
}
