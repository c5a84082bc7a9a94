//! What a disk says about itself: INQUIRY with its VPD pages, capacity, target port group, supported
//! functions, log and defect pages. A bit stands here only when its command is in the table of `commands` and
//! its effect is there; a test goes through all of them.

use super::disk::{Context, Disk, MAX_SAME_BYTES, MAX_UNMAP_DESCRIPTORS};
use crate::scsi::{
    BlockLimits, Capacity, Designator, Extent, Form, Inquiry, Provisioning, Sense, VpdPage, lba_status, vpd,
};

/// The only target port group; the relative target port identifier is the portal group tag.
const PORT_GROUP: u16 = 1;
/// Most descriptors of one GET LBA STATUS: each may take two calls of the file system.
const MAX_LBA_DESCRIPTORS: usize = 64;

/// VPD pages, in ascending order.
const PAGES: [u8; 8] = [
    vpd::SUPPORTED_PAGES,
    vpd::SERIAL_NUMBER,
    vpd::DEVICE_IDENTIFICATION,
    vpd::EXTENDED_INQUIRY,
    vpd::THIRD_PARTY_COPY,
    vpd::BLOCK_LIMITS,
    vpd::CHARACTERISTICS,
    vpd::PROVISIONING,
];

impl Disk {
    pub(super) fn inquiry(&self) -> Inquiry {
        Inquiry {
            qualifier: 0,
            device_type: 0,
            removable: self.is_removable(),
            version: 6,
            port_groups: true,
            third_party_copy: true,
            vendor: *b"CNIC-LAB",
            product: *b"VIRTUAL-DISK    ",
            revision: *b"0001",
        }
    }

    pub(super) fn capacity(&self) -> Capacity {
        Capacity {
            blocks: self.blocks(),
            block_size: self.block_size(),
            provisioned: true,
            reads_zeros: true,
            physical_exponent: 0,
        }
    }

    pub(super) fn vital_data(
        &self,
        context: &Context<'_>,
        page: u8,
        reply: &mut Vec<u8>,
    ) -> Result<(), Sense> {
        let same_blocks = MAX_SAME_BYTES / u64::from(self.block_size());
        match page {
            vpd::SUPPORTED_PAGES => VpdPage::begin(page, reply).put(&PAGES).end(),
            vpd::SERIAL_NUMBER => VpdPage::begin(page, reply).put(self.serial().as_bytes()).end(),
            vpd::DEVICE_IDENTIFICATION => self.identification(context, reply),
            vpd::EXTENDED_INQUIRY => {
                let mut data = [0; 60];
                // SIMPSUP: simple task attributes. V_SUP: a volatile cache. LUICLR: the reset of a unit
                // clears its conditions.
                data[1] = 0x01;
                data[2] = u8::from(self.medium.volatile_cache());
                VpdPage::begin(page, reply).put(&data).end();
            }
            vpd::THIRD_PARTY_COPY => super::copy::vital_data(reply),
            vpd::BLOCK_LIMITS => BlockLimits {
                max_compare_and_write: self.max_compare_blocks() as u8,
                max_transfer: same_blocks as u32,
                optimal_transfer: 0,
                max_prefetch: 0,
                max_unmap_blocks: same_blocks as u32,
                max_unmap_descriptors: MAX_UNMAP_DESCRIPTORS as u32,
                unmap_granularity: 1,
                max_write_same: same_blocks,
                max_atomic: self.max_atomic_blocks(),
                atomic_alignment: self.atomic_unit(),
                atomic_granularity: self.atomic_unit(),
            }
            .encode(reply),
            vpd::CHARACTERISTICS => {
                let mut data = [0; 60];
                // Non-rotating. WABEREQ 01b: after a block erase every block can be read, as zeros.
                data[1] = 1;
                data[3] = 0x40;
                VpdPage::begin(page, reply).put(&data).end();
            }
            vpd::PROVISIONING => {
                Provisioning { unmap: true, write_same_unmap: true, reads_zeros: true, kind: 2 }
                    .encode(reply);
            }
            _ => return Err(Sense::invalid_cdb_byte(2)),
        }
        Ok(())
    }

    /// NAA 3, locally assigned, of the serial number (FNV-1a): the same on every path, unique enough for a
    /// laboratory.
    fn naa(&self) -> [u8; 8] {
        let hash = self
            .serial()
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01B3));
        (hash & 0x0FFF_FFFF_FFFF_FFFF | 0x3000_0000_0000_0000).to_be_bytes()
    }

    /// The unit's name by T10 vendor id.
    fn vendor_name(&self) -> Vec<u8> {
        [&self.inquiry().vendor, self.serial().as_bytes()].concat()
    }

    /// Whether a designator of this code set and type names this unit.
    pub(super) fn is_named(&self, code_set: u8, kind: u8, name: &[u8]) -> bool {
        match (code_set, kind) {
            (1, 3) => name == self.naa(),
            (2, 1) => name == self.vendor_name(),
            _ => false,
        }
    }

    /// Page 83: the unit by T10 vendor id and by NAA, the port by relative identifier and group, the port and
    /// the target by iSCSI name.
    fn identification(&self, context: &Context<'_>, reply: &mut Vec<u8>) {
        let unit = |code_set, kind, data| Designator { protocol: None, code_set, association: 0, kind, data };
        let named =
            |association, data| Designator { protocol: Some(5), code_set: 3, association, kind: 8, data };
        let port = |kind, data| Designator { protocol: Some(5), code_set: 1, association: 1, kind, data };
        let number = |n: u16| [0, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]];
        let terminated = |mut name: String| {
            name.push('\0');
            while !name.len().is_multiple_of(4) {
                name.push('\0');
            }
            name
        };
        let port_name = terminated(format!("{},t,0x{:04x}", context.target, context.portal_group));
        let device = terminated(context.target.to_owned());
        VpdPage::begin(vpd::DEVICE_IDENTIFICATION, reply)
            .designator(&unit(2, 1, &self.vendor_name()))
            .designator(&unit(1, 3, &self.naa()))
            .designator(&port(4, &number(context.portal_group)))
            .designator(&port(5, &number(PORT_GROUP)))
            .designator(&named(1, port_name.as_bytes()))
            .designator(&named(2, device.as_bytes()))
            .end();
    }

    /// GET LBA STATUS (SBC-3 5.4): as many descriptors as the allocation has room for, one at least.
    pub(super) fn lba_status(&mut self, lba: u64, allocation: u32, reply: &mut Vec<u8>) -> Result<(), Sense> {
        if lba >= self.blocks() {
            return Err(Sense::LBA_OUT_OF_RANGE);
        }
        let room = (allocation as usize).saturating_sub(8) / 16;
        let mut extents = Vec::new();
        let mut at = lba;
        while extents.len() < room.clamp(1, MAX_LBA_DESCRIPTORS) && at < self.blocks() {
            let rest = (self.blocks() - at).min(u64::from(u32::MAX));
            let found = self.provisioning(at, rest)?;
            // The states of neighbours alternate, but for extents that were cut at the 32-bit limit.
            extents.push(Extent { lba: at, blocks: found.len as u32, mapped: found.allocated });
            at += found.len;
        }
        lba_status(&extents, reply);
        Ok(())
    }

    /// READ DEFECT DATA (SBC-3 5.17, 5.18): both lists are empty, in whatever format was asked for.
    pub(super) fn defects(form: Form, lists: u8, reply: &mut Vec<u8>) {
        match form {
            Form::Twelve => reply.extend_from_slice(&[0, lists, 0, 0, 0, 0, 0, 0]),
            _ => reply.extend_from_slice(&[0, lists, 0, 0]),
        }
    }

    /// LOG SENSE (SPC-4 6.7): the list of pages, which has nothing but itself and Informational Exceptions
    /// (nothing to report).
    pub(super) fn log(page: u8, subpage: u8, pointer: u16, reply: &mut Vec<u8>) -> Result<(), Sense> {
        const EXCEPTIONS: u8 = 0x2F;
        match (page, subpage) {
            (0, 0) => reply.extend_from_slice(&[0, 0, 0, 2, 0, EXCEPTIONS]),
            (EXCEPTIONS, 0) if pointer == 0 => {
                // Parameter 0, in binary format: no exception, no temperature.
                reply.extend_from_slice(&[EXCEPTIONS, 0, 0, 8, 0, 0, 0x03, 4, 0, 0, 0xFF, 0]);
            }
            (EXCEPTIONS, 0) => return Err(Sense::invalid_cdb_byte(5)),
            (0 | EXCEPTIONS, _) => return Err(Sense::invalid_cdb_byte(3)),
            _ => return Err(Sense::invalid_cdb_byte(2)),
        }
        Ok(())
    }
}

/// REPORT TARGET PORT GROUPS (SPC-4 6.37): one group, active and optimized, with one port. Nobody can ask it
/// to change, and it supports no other state.
pub(super) fn port_groups(format: u8, port: u16, reply: &mut Vec<u8>) -> Result<(), Sense> {
    let [group, port] = [PORT_GROUP, port].map(u16::to_be_bytes);
    match format {
        0 => reply.extend_from_slice(&[0, 0, 0, 12]),
        // The extended header adds format type 1 and no implicit transition time.
        1 => reply.extend_from_slice(&[0, 0, 0, 16, 0x10, 0, 0, 0]),
        _ => return Err(Sense::invalid_cdb_byte(1)),
    }
    // AO_SUP is the only state; status 0: never changed.
    reply.extend_from_slice(&[0, 0x01, group[0], group[1], 0, 0, 0, 1, 0, 0, port[0], port[1]]);
    Ok(())
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.36): ABORT TASK, ABORT TASK SET, CLEAR TASK SET,
/// LOGICAL UNIT RESET.
pub(super) fn functions(extended: bool, reply: &mut Vec<u8>) {
    reply.extend_from_slice(&[0xD8, 0, 0, 0]);
    if extended {
        // ADDITIONAL LENGTH, and no timeouts.
        reply[3] = 0x0C;
        reply.extend_from_slice(&[0; 12]);
    }
}
