//! The bnx2 role: owns the PCI function. Probe, the register window into GRC space, the firmware mailbox
//! handshake, software reset, status block and interrupt switches, MTU.
//!
//! Called by the adapter, which drives the waits; nothing here waits. Not modelled: netdev rings, PHY, NVRAM,
//! firmware download (our chips come with running firmware), MSI-X.

mod regs;

use core::mem::offset_of;

use bus::actor::Cx;
use bus::config::{COMMAND_BUS_MASTER, COMMAND_MEMORY, MSI_ENABLE};
use bus::mem::View;
use bus::pci::{BusLost, Dir, DmaExhausted, Loan, Platform, Proof};
use hsi::bcm5709::regs as r;
use hsi::bcm5709::regs::config_space;
use hsi::bcm5709::shmem as s;
use hsi::bcm5709::status_block::StatusBlock;

use crate::adapter::Failure;
use crate::mem::Lent;
pub(crate) use regs::{BAR0, Regs};

/// Byte offsets in the plain status block (HSI: status_block).
const SB_CMD_CONSUMER: usize = offset_of!(StatusBlock, status_cmd_consumer_index);
const SB_COMPLETION_PRODUCER: usize = offset_of!(StatusBlock, status_completion_producer_index);
const SB_INDEX: usize = offset_of!(StatusBlock, status_idx);
/// Where shared memory may begin in GRC space: the scratchpad of the management processor, 32 KiB, with room
/// for one function's part.
const SHMEM_BASES: core::ops::RangeInclusive<u32> =
    s::SHM_HDR_SIGNATURE..=s::SHM_HDR_SIGNATURE + 0x8000 - SHMEM_BYTES;
/// More than any offset that is used.
const SHMEM_BYTES: u32 = 0x400;
/// Reads of a self-clearing bit before it counts as stuck.
const POLLS: usize = 10;
/// Context pages lent at most: the windows that firmware announces hold a few hundred.
const MAX_CONTEXT_PAGES: usize = 1024;
/// Contexts in one host page: 128 bytes each.
const CONTEXTS_PER_PAGE: u32 = 32;

/// What probe found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Base of the function's shared memory in GRC space.
    shmem: u32,
    /// MAC of the offload interface.
    pub(crate) iscsi_mac: [u8; 6],
    /// Licensed connections.
    pub(crate) max_connections: u16,
}

/// Memory that the chip has while it is up. The page of the status block is the helper's too, and outlives
/// it.
#[must_use]
pub(crate) struct ChipMemory {
    status: View,
    status_addr: u64,
    status_loan: Loan,
    contexts: Option<Lent>,
}

impl ChipMemory {
    pub(crate) fn release<P: Platform>(self, p: &mut P, proof: Proof) {
        p.reclaim(self.status_loan, proof);
        if let Some(c) = self.contexts {
            c.release(p, proof);
        }
    }

    pub(crate) fn loans(&self) -> u32 {
        1 + self.contexts.as_ref().map_or(0, Lent::loans)
    }

    pub(crate) fn buffers(&self) -> u32 {
        u32::from(self.contexts.is_some())
    }

    /// KWQ consumer index: KWQEs before it were fetched.
    pub(crate) fn kwq_consumer(&self) -> u16 {
        self.status.load16(SB_CMD_CONSUMER)
    }

    /// KCQ producer index.
    pub(crate) fn kcq_producer(&self) -> u16 {
        self.status.load16(SB_COMPLETION_PRODUCER)
    }

    /// Status index, to acknowledge.
    pub(crate) fn index(&self) -> u16 {
        self.status.load16(SB_INDEX)
    }
}

/// Reads config space and switches memory decode, bus mastering and MSI on.
pub(crate) fn enable<P: Platform>(p: &mut P, cx: &mut Cx<'_>) -> Result<(), Failure> {
    let id = p.config_read(cx, 0).map_err(|_| Failure::BusLost)?;
    let revision = p.config_read(cx, 8).map_err(|_| Failure::BusLost)? as u8;
    if id == u32::MAX {
        return Err(Failure::BusLost);
    }
    let (vendor, device) = (id as u16, (id >> 16) as u16);
    if vendor != config_space::VENDOR_ID || revision < config_space::MIN_REVISION {
        return Err(Failure::NotOurs { device, revision });
    }
    p.config_write(cx, 4, COMMAND_MEMORY | COMMAND_BUS_MASTER);
    p.config_write(cx, config_space::MSI_CAP, MSI_ENABLE);
    let mut regs = Regs::new(p, cx);
    regs.write(
        r::PCICFG_MISC_CONFIG,
        r::PCICFG_MISC_CONFIG_REG_WINDOW_ENA | r::PCICFG_MISC_CONFIG_TARGET_MB_WORD_SWAP,
    );
    let chip = regs.read(r::MISC_ID).map_err(|_| Failure::BusLost)?;
    if chip & r::MISC_ID_CHIP_NUM != r::CHIP_5709 {
        return Err(Failure::NotOurs { device, revision });
    }
    Ok(())
}

/// Reads shared memory: is firmware running, what is licensed, which MAC is ours (CHIP-REGISTERS 2, items 3
/// to 5).
pub(crate) fn identify<P: Platform>(p: &mut P, cx: &mut Cx<'_>) -> Result<Identity, Failure> {
    let mut regs = Regs::new(p, cx);
    let read = |regs: &mut Regs<'_, '_, P>, at| regs.window_read(at).map_err(|_| Failure::BusLost);
    let signature = read(&mut regs, s::SHM_HDR_SIGNATURE)?;
    let shmem = if signature & s::SHM_HDR_SIGNATURE_SIG_MASK == s::SHM_HDR_SIGNATURE_SIG {
        let second = read(&mut regs, r::MCP_TOE_ID)? & r::MCP_TOE_ID_FUNCTION_ID != 0;
        read(&mut regs, if second { s::SHM_HDR_ADDR_1 } else { s::SHM_HDR_ADDR_0 })?
    } else {
        s::HOST_VIEW_SHMEM_BASE
    };
    // It comes from the card: outside the firmware's memory there is nothing to shake hands with.
    if !SHMEM_BASES.contains(&shmem) || !shmem.is_multiple_of(4) {
        return Err(Failure::Firmware);
    }
    let magic = read(&mut regs, shmem + s::DEV_INFO_SIGNATURE)?;
    if magic & s::DEV_INFO_SIGNATURE_MAGIC_MASK != s::DEV_INFO_SIGNATURE_MAGIC {
        return Err(Failure::Firmware);
    }
    let enabled = read(&mut regs, shmem + s::ISCSI_INITIATOR)? & s::ISCSI_INITIATOR_EN != 0;
    let max_connections = (read(&mut regs, shmem + s::ISCSI_MAX_CONN)? >> 16) as u16;
    if !enabled || max_connections == 0 {
        return Err(Failure::NoLicence);
    }
    let upper = read(&mut regs, shmem + s::PORT_HW_CFG_ISCSI_MAC_UPPER)?;
    let lower = read(&mut regs, shmem + s::PORT_HW_CFG_ISCSI_MAC_LOWER)?;
    Ok(Identity { shmem, iscsi_mac: s::mac(upper, lower), max_connections })
}

/// Posts a message to firmware.
pub(crate) fn mailbox_post<P: Platform>(p: &mut P, cx: &mut Cx<'_>, id: &Identity, code: u32, seq: u16) {
    Regs::new(p, cx).window_write(id.shmem + s::DRV_MB, code | u32::from(seq));
}

/// Whether firmware has acknowledged message `seq`.
pub(crate) fn mailbox_acked<P: Platform>(
    p: &mut P,
    cx: &mut Cx<'_>,
    id: &Identity,
    seq: u16,
) -> Result<bool, BusLost> {
    let answer = Regs::new(p, cx).window_read(id.shmem + s::FW_MB)?;
    Ok(answer & s::FW_MSG_ACK == u32::from(seq))
}

/// Stops the chip's processors from polling the kernel queues and starts a software reset (items 10 and 22).
pub(crate) fn software_reset<P: Platform>(p: &mut P, cx: &mut Cx<'_>) {
    let mut regs = Regs::new(p, cx);
    regs.write(r::PCICFG_INT_ACK_CMD, r::PCICFG_INT_ACK_CMD_MASK_INT);
    regs.window_write(r::CP_DOORBELL_ENABLE, 0);
    regs.window_write(r::COM_DOORBELL_ENABLE, 0);
    regs.write(r::MISC_COMMAND, r::MISC_COMMAND_SW_RESET);
}

/// Whether registers answer in the right byte order after a reset.
pub(crate) fn byte_order_ok<P: Platform>(p: &mut P, cx: &mut Cx<'_>) -> bool {
    Regs::new(p, cx).read(r::PCI_SWAP_DIAG0) == Ok(r::SWAP_DIAG0_VALUE)
}

/// Why the chip could not be set up.
pub(crate) enum SetupError {
    /// A register did not react or the card is gone.
    Chip,
    /// No DMA memory.
    Memory,
}

impl From<DmaExhausted> for SetupError {
    fn from(_: DmaExhausted) -> Self {
        Self::Memory
    }
}

/// Programs everything below the kernel queues: context memory, mailbox queue, MAC and MTU, status block and
/// coalescing. `status` is the page of the status block, lent. On failure nothing stays lent: the chip never
/// learnt of the memory, or is reset before it is used.
pub(crate) fn setup<P: Platform>(
    p: &mut P,
    cx: &mut Cx<'_>,
    id: &Identity,
    mtu: u16,
    (status, status_addr, status_loan): (View, u64, Loan),
) -> Result<ChipMemory, SetupError> {
    let mut memory = ChipMemory { status, status_addr, status_loan, contexts: None };
    match program(p, cx, id, mtu, &mut memory) {
        Ok(()) => Ok(memory),
        Err(e) => {
            // The chip is idle: no ring is set up and interrupts are masked. A reset precedes the next try.
            memory.release(p, Proof::NeverPosted);
            Err(e)
        }
    }
}

fn program<P: Platform>(
    p: &mut P,
    cx: &mut Cx<'_>,
    id: &Identity,
    mtu: u16,
    memory: &mut ChipMemory,
) -> Result<(), SetupError> {
    let chip = |_| SetupError::Chip;
    let mut regs = Regs::new(p, cx);
    let command = r::CTX_COMMAND_ENABLED | r::CTX_COMMAND_MEM_INIT | r::CTX_COMMAND_PAGE_SIZE_4K;
    regs.write(r::CTX_COMMAND, command);
    regs.wait_clear(r::CTX_COMMAND, r::CTX_COMMAND_MEM_INIT, POLLS).map_err(chip)?;
    regs.write(r::MISC_ENABLE_SET_BITS, r::MISC_ENABLE_DEFAULT);
    regs.write(r::MQ_CONFIG, r::MQ_CONFIG_BIN_MQ_MODE | r::MQ_CONFIG_KNL_BYP_BLK_SIZE_4K);
    let (upper, lower) = s::mac_words(id.iscsi_mac);
    regs.write(r::EMAC_MAC_MATCH4, upper);
    regs.write(r::EMAC_MAC_MATCH5, lower);
    // Ethernet header and FCS count; the jumbo bit is needed above the standard frame.
    let frame = u32::from(mtu) + 18;
    let jumbo = if mtu > 1500 { r::EMAC_RX_MTU_SIZE_JUMBO_ENA } else { 0 };
    regs.write(r::EMAC_RX_MTU_SIZE, frame | jumbo);

    let windows = [regs.window_read(r::PG_CTX_MAP), regs.window_read(r::ISCSI_CTX_MAP)];
    let mut pages = Vec::new();
    for w in windows {
        let (first, end) = (w.map_err(chip)? >> 16, w.map_err(chip)? & 0xffff);
        let range = first / CONTEXTS_PER_PAGE..end.div_ceil(CONTEXTS_PER_PAGE);
        pages.extend(range.take(MAX_CONTEXT_PAGES));
    }
    if !pages.is_empty() {
        let len = pages.len() * bus::mem::PAGE_SIZE;
        let lent = Lent::new(regs.platform(), len, "contexts", &[(0..len, Dir::Both)])?;
        let base = lent.addr(0);
        memory.contexts = Some(lent);
        for (i, page) in pages.iter().enumerate() {
            let addr = base + (i * bus::mem::PAGE_SIZE) as u64;
            regs.write(r::CTX_HOST_PAGE_TBL_DATA0, addr as u32 | r::CTX_HOST_PAGE_TBL_DATA0_VALID);
            regs.write(r::CTX_HOST_PAGE_TBL_DATA1, (addr >> 32) as u32);
            regs.write(r::CTX_HOST_PAGE_TBL_CTRL, page | r::CTX_HOST_PAGE_TBL_CTRL_WRITE_REQ);
        }
        let request = r::CTX_HOST_PAGE_TBL_CTRL_WRITE_REQ;
        regs.wait_clear(r::CTX_HOST_PAGE_TBL_CTRL, request, POLLS).map_err(chip)?;
    }

    let status = memory.status_addr;
    regs.write(r::HC_STATUS_ADDR_L, status as u32);
    regs.write(r::HC_STATUS_ADDR_H, (status >> 32) as u32);
    // One completion is worth an interrupt at once: latency before batching; the chip batches by itself when
    // the driver is late with its acknowledgement (one-shot mode).
    regs.write(r::HC_COMP_PROD_TRIP, 1 << 16 | 1);
    regs.write(r::HC_COM_TICKS, 0);
    regs.write(r::HC_CMD_TICKS, 0);
    regs.write(r::HC_CONFIG, r::HC_CONFIG_ONE_SHOT);
    regs.write(r::HC_COMMAND, r::HC_COMMAND_ENABLE);
    Ok(())
}

/// Unmasks the interrupt and makes the chip raise one if anything is pending.
pub(crate) fn interrupts_on<P: Platform>(p: &mut P, cx: &mut Cx<'_>, memory: &ChipMemory) {
    ack(p, cx, memory.index());
    Regs::new(p, cx).write(r::HC_COMMAND, r::HC_COMMAND_ENABLE | r::HC_COMMAND_COAL_NOW);
}

/// Acknowledges the interrupt with the status index up to which everything was looked at.
pub(crate) fn ack<P: Platform>(p: &mut P, cx: &mut Cx<'_>, index: u16) {
    let valid = r::PCICFG_INT_ACK_CMD_INDEX_VALID;
    Regs::new(p, cx).write(r::PCICFG_INT_ACK_CMD, valid | u32::from(index));
}
