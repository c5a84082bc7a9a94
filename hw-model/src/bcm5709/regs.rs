//! The registers, as a table: name, address, access, reset value, and what a write does.
//!
//! The table drives storage and access checks here, the listing for people, and the dictionary of fuzzers. An
//! access to a register that is not in the table answers like memory, is counted, and can be listed.
//! Registers below 0x100 are private registers of configuration space, mirrored at the start of BAR 0; all
//! others are GRC addresses. Scratchpads of the on-chip processors are memory: firmware that the host
//! downloads is kept and never run.

use std::collections::BTreeMap;

use hsi::bcm5709::{regs, shmem};

use super::fixed;
use super::mem::SparseMem;
use crate::config::ChipConfig;

/// What a host may do with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Writes are ignored.
    ReadOnly,
    /// What was written last.
    ReadWrite,
    /// Reads return zero.
    WriteOnly,
    /// Of these bits, those written as one become zero; nothing else changes.
    WriteOneClear(u32),
    /// As read-write, but these bits read as zero: what they ask for is done before the next read.
    SelfClearing(u32),
}

macro_rules! effects {
    ($($effect:ident: $text:literal,)*) => {
        /// What a write does besides being stored.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Effect { $(#[doc = $text] $effect,)* }

        impl Effect {
            /// The same in words, for listings.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$effect => $text,)* }
            }
        }
    };
}

effects! {
    None: "Nothing.",
    Mirror: "Shows the standard register of configuration space at the same offset.",
    Level: "Shows the level of INTx: bit 0 is its pin, which is low when asserted.",
    WindowData: "Reads or writes the GRC address that the window shows.",
    InterruptAck: "Acknowledges, masks and unmasks an interrupt.",
    AttentionSet: "Sets acknowledged attention bits.",
    AttentionClear: "Clears acknowledged attention bits.",
    Reset: "Resets the chip, except for shared memory and configuration space.",
    EnableBlocks: "Enables blocks: sets bits of MISC_ENABLE_STATUS_BITS.",
    DisableBlocks: "Disables blocks: clears bits of MISC_ENABLE_STATUS_BITS.",
    Context: "Reads or writes a word of context memory; a ring's address starts the ring over.",
    ContextInit: "Zeroes context memory.",
    HostPageTable: "Reads or writes an entry of the host page table.",
    Mdio: "Runs a transaction with the PHY.",
    Rss: "Reads or writes eight entries of the RSS table.",
    NvramCommand: "Reads or writes a word of the flash.",
    NvramArbitration: "Requests or releases the flash.",
    StatusBlock: "Moves the status block.",
    StatisticsBlock: "Place and period of the statistics block.",
    HcModes: "Modes of host coalescing: it publishes from now on.",
    Thresholds: "Trip counts and time limits of the status blocks.",
    CoalesceNow: "Publishes the status block, with or without an interrupt; writes or zeroes statistics.",
    CoalesceVectors: "Publishes the blocks of single vectors.",
    KwqGo: "Starts or stops the kernel work queue.",
    KcqGo: "Starts or stops the kernel completion queue.",
    DriverMailbox: "A driver message for boot code.",
    CpStart: "Starts the command processor, whose firmware says in its scratchpad how many connections there are and where.",
}

/// Where a register lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Private configuration space, mirrored in BAR 0 below 0x100.
    PciCfg,
    /// Register space: BAR 0 below 0x10000, or through the window.
    Grc,
    /// A word of shared memory, in register space too.
    Shmem,
}

/// One 32-bit register.
#[derive(Clone, Copy, Debug)]
pub struct Register {
    /// Name, without the vendor's prefix.
    pub name: &'static str,
    /// Where it lies.
    pub space: Space,
    /// Address in bytes.
    pub at: u32,
    /// What a host may do with it.
    pub access: Access,
    /// Value after power-on, and after a reset of its kind. Identity and licence of a card replace some of
    /// them.
    pub reset: u32,
    /// What a write does.
    pub effect: Effect,
}

impl Register {
    /// Bytes of a register.
    pub const WIDTH: u32 = 4;
}

const fn row(
    name: &'static str,
    space: Space,
    at: u32,
    access: Access,
    reset: u32,
    effect: Effect,
) -> Register {
    Register { name, space, at, access, reset, effect }
}

macro_rules! table {
    ($($space:ident { $($name:ident $access:expr, $reset:expr, $effect:ident;)* })*) => {
        &[$($(row(stringify!($name), Space::$space, table!(@at $space $name), $access, $reset, Effect::$effect),)*)*]
    };
    (@at Shmem $name:ident) => { shmem::HOST_VIEW_SHMEM_BASE + shmem::$name };
    (@at $space:ident $name:ident) => { regs::$name };
}

/// The coalescing registers of one MSI-X vector.
macro_rules! vector {
    ($n:literal) => {
        vector!(@rows $n
            "HC_SB_CONFIG_", 0;
            "HC_TX_QUICK_CONS_TRIP_", regs::HC_TX_QUICK_CONS_TRIP_OFF;
            "HC_COMP_PROD_TRIP_", regs::HC_COMP_PROD_TRIP_OFF;
            "HC_RX_QUICK_CONS_TRIP_", regs::HC_RX_QUICK_CONS_TRIP_OFF;
            "HC_RX_TICKS_", regs::HC_RX_TICKS_OFF;
            "HC_TX_TICKS_", regs::HC_TX_TICKS_OFF;
            "HC_COM_TICKS_", regs::HC_COM_TICKS_OFF;
            "HC_CMD_TICKS_", regs::HC_CMD_TICKS_OFF;
        )
    };
    (@rows $n:literal $($name:literal, $offset:expr;)*) => {
        &[$(row(
            concat!($name, $n),
            Space::Grc,
            regs::HC_SB_CONFIG_1 + ($n - 1) * regs::HC_SB_CONFIG_SIZE + $offset,
            ReadWrite,
            0,
            Effect::Thresholds,
        ),)*]
    };
}

use Access::{ReadOnly, ReadWrite, SelfClearing, WriteOneClear, WriteOnly};

const EMAC_EVENTS: u32 =
    regs::EMAC_STATUS_LINK_CHANGE | regs::EMAC_STATUS_MI_COMPLETE | regs::EMAC_STATUS_MI_INT;
const PAGE_TABLE: u32 = regs::CTX_HOST_PAGE_TBL_CTRL_WRITE_REQ | regs::CTX_HOST_PAGE_TBL_CTRL_READ_REQ;
const HC_NOW: u32 = regs::HC_COMMAND_COAL_NOW
    | regs::HC_COMMAND_COAL_NOW_WO_INT
    | regs::HC_COMMAND_STATS_NOW
    | regs::HC_COMMAND_CLR_STAT_NOW;

const BEFORE_VECTORS: &[Register] = table! {
    PciCfg {
        PCICFG_MSI_CONTROL ReadOnly, 0, Mirror;
        PCICFG_MISC_CONFIG ReadWrite, 0, None;
        PCICFG_MISC_STATUS ReadOnly, regs::PCICFG_MISC_STATUS_INTA_VALUE, Level;
        PCICFG_PCI_CLOCK_CONTROL_BITS ReadOnly, 0, None;
        PCICFG_REG_WINDOW_ADDRESS ReadWrite, 0, None;
        PCICFG_REG_WINDOW ReadWrite, 0, WindowData;
        PCICFG_INT_ACK_CMD ReadWrite, 0, InterruptAck;
        PCICFG_STATUS_BIT_SET_CMD WriteOnly, 0, AttentionSet;
        PCICFG_STATUS_BIT_CLEAR_CMD WriteOnly, 0, AttentionClear;
        PCICFG_MAILBOX_QUEUE_ADDR ReadWrite, 0, None;
        PCICFG_MAILBOX_QUEUE_DATA ReadWrite, 0, None;
        PCICFG_DEVICE_CONTROL ReadOnly, 0, Mirror;
    }
    Grc {
        PCI_GRC_WINDOW_ADDR ReadWrite, 0, None;
        PCI_CONFIG_3 ReadOnly, regs::PCI_CONFIG_3_VAUX_PRESET, None;
        PCI_SWAP_DIAG0 ReadOnly, regs::SWAP_DIAG0_VALUE, None;
        PCI_SWAP_DIAG1 ReadWrite, 0, None;
        PCI_MSIX_CONTROL ReadWrite, 0, None;
        PCI_MSIX_TBL_OFF_BIR ReadWrite, 0, None;
        PCI_MSIX_PBA_OFF_BIT ReadWrite, 0, None;
        PCI_GRC_WINDOW2_ADDR ReadWrite, 0, None;
        PCI_GRC_WINDOW3_ADDR ReadWrite, 0, None;
        MISC_COMMAND SelfClearing(!0), 0, Reset;
        MISC_CFG ReadWrite, 0, None;
        MISC_ID ReadOnly, regs::MISC_ID_5709_C0, None;
        MISC_ENABLE_STATUS_BITS ReadOnly, 0, None;
        MISC_ENABLE_SET_BITS WriteOnly, 0, EnableBlocks;
        MISC_ENABLE_CLR_BITS WriteOnly, 0, DisableBlocks;
        MISC_CLOCK_CONTROL_BITS ReadWrite, 0, None;
        MISC_NEW_CORE_CTL ReadWrite, 0, None;
        MISC_ECO_HW_CTL ReadWrite, 0, None;
        MISC_DUAL_MEDIA_CTRL ReadOnly, regs::MISC_DUAL_MEDIA_CTRL_BOND_ID_C, None;
        DMA_CONFIG ReadWrite, 0, None;
        CTX_COMMAND SelfClearing(regs::CTX_COMMAND_MEM_INIT), regs::CTX_COMMAND_ENABLED, ContextInit;
        CTX_STATUS ReadOnly, 0, None;
        CTX_CTX_CTRL SelfClearing(regs::CTX_CTX_CTRL_WRITE_REQ | regs::CTX_CTX_CTRL_READ_REQ), 0, Context;
        CTX_CTX_DATA ReadWrite, 0, None;
        CTX_HOST_PAGE_TBL_CTRL SelfClearing(PAGE_TABLE), 0, HostPageTable;
        CTX_HOST_PAGE_TBL_DATA0 ReadWrite, 0, None;
        CTX_HOST_PAGE_TBL_DATA1 ReadWrite, 0, None;
        EMAC_MODE SelfClearing(regs::EMAC_MODE_RESET), 0, None;
        EMAC_STATUS WriteOneClear(EMAC_EVENTS), 0, None;
        EMAC_ATTENTION_ENA ReadWrite, 0, None;
        EMAC_LED ReadWrite, 0, None;
        EMAC_MAC_MATCH0 ReadWrite, 0, None;
        EMAC_MAC_MATCH1 ReadWrite, 0, None;
        EMAC_MAC_MATCH2 ReadWrite, 0, None;
        EMAC_MAC_MATCH3 ReadWrite, 0, None;
        EMAC_MAC_MATCH4 ReadWrite, 0, None;
        EMAC_MAC_MATCH5 ReadWrite, 0, None;
        EMAC_MAC_MATCH6 ReadWrite, 0, None;
        EMAC_MAC_MATCH7 ReadWrite, 0, None;
        EMAC_MAC_MATCH8 ReadWrite, 0, None;
        EMAC_MAC_MATCH9 ReadWrite, 0, None;
        EMAC_MAC_MATCH10 ReadWrite, 0, None;
        EMAC_MAC_MATCH11 ReadWrite, 0, None;
        EMAC_MAC_MATCH12 ReadWrite, 0, None;
        EMAC_MAC_MATCH13 ReadWrite, 0, None;
        EMAC_MAC_MATCH14 ReadWrite, 0, None;
        EMAC_MAC_MATCH15 ReadWrite, 0, None;
        EMAC_MAC_MATCH16 ReadWrite, 0, None;
        EMAC_MAC_MATCH17 ReadWrite, 0, None;
        EMAC_MAC_MATCH18 ReadWrite, 0, None;
        EMAC_MAC_MATCH19 ReadWrite, 0, None;
        EMAC_MAC_MATCH20 ReadWrite, 0, None;
        EMAC_MAC_MATCH21 ReadWrite, 0, None;
        EMAC_MAC_MATCH22 ReadWrite, 0, None;
        EMAC_MAC_MATCH23 ReadWrite, 0, None;
        EMAC_MAC_MATCH24 ReadWrite, 0, None;
        EMAC_MAC_MATCH25 ReadWrite, 0, None;
        EMAC_MAC_MATCH26 ReadWrite, 0, None;
        EMAC_MAC_MATCH27 ReadWrite, 0, None;
        EMAC_MAC_MATCH28 ReadWrite, 0, None;
        EMAC_MAC_MATCH29 ReadWrite, 0, None;
        EMAC_MAC_MATCH30 ReadWrite, 0, None;
        EMAC_MAC_MATCH31 ReadWrite, 0, None;
        EMAC_BACKOFF_SEED ReadWrite, 0, None;
        EMAC_RX_MTU_SIZE ReadWrite, 0, None;
        EMAC_SERDES_CNTL ReadWrite, 0, None;
        EMAC_MDIO_COMM ReadWrite, 0, Mdio;
        EMAC_MDIO_STATUS ReadWrite, 0, None;
        EMAC_MDIO_MODE ReadWrite, 0, None;
        EMAC_MDIO_AUTO_STATUS ReadWrite, 0, None;
        EMAC_TX_MODE SelfClearing(regs::EMAC_TX_MODE_RESET), 0, None;
        EMAC_TX_STATUS ReadWrite, 0, None;
        EMAC_TX_LENGTHS ReadWrite, 0, None;
        EMAC_RX_MODE SelfClearing(regs::EMAC_RX_MODE_RESET), 0, None;
        EMAC_RX_STATUS ReadWrite, 0, None;
        EMAC_MULTICAST_HASH0 ReadWrite, 0, None;
        EMAC_MULTICAST_HASH1 ReadWrite, 0, None;
        EMAC_MULTICAST_HASH2 ReadWrite, 0, None;
        EMAC_MULTICAST_HASH3 ReadWrite, 0, None;
        EMAC_MULTICAST_HASH4 ReadWrite, 0, None;
        EMAC_MULTICAST_HASH5 ReadWrite, 0, None;
        EMAC_MULTICAST_HASH6 ReadWrite, 0, None;
        EMAC_MULTICAST_HASH7 ReadWrite, 0, None;
        RPM_CONFIG ReadWrite, 0, None;
        RPM_MGMT_PKT_CTRL ReadWrite, 0, None;
        RPM_SORT_USER0 ReadWrite, 0, None;
        RPM_SORT_USER1 ReadWrite, 0, None;
        RPM_SORT_USER2 ReadWrite, 0, None;
        RPM_SORT_USER3 ReadWrite, 0, None;
        RLUP_RSS_CONFIG ReadWrite, 0, None;
        RLUP_RSS_COMMAND SelfClearing(regs::RLUP_RSS_COMMAND_WRITE | regs::RLUP_RSS_COMMAND_READ), 0, Rss;
        RLUP_RSS_DATA ReadWrite, 0, None;
        RV2P_COMMAND ReadWrite, 0, None;
        RV2P_CONFIG ReadWrite, 0, None;
        MQ_COMMAND ReadWrite, 0, None;
        MQ_STATUS ReadOnly, 0, None;
        MQ_CONFIG ReadWrite, 0, None;
        MQ_BAD_WR_ADDR ReadOnly, 0, None;
        MQ_BAD_RD_ADDR ReadOnly, 0, None;
        MQ_KNL_BYP_WIND_START ReadWrite, 0, None;
        MQ_KNL_WIND_END ReadWrite, 0, None;
        MQ_CONFIG2 ReadOnly, 0, None;
        MQ_MAP_L2_3 ReadWrite, regs::MQ_MAP_L2_3_DEFAULT, None;
        MQ_MAP_L2_5 ReadWrite, 0, None;
        TSCH_TSS_CFG ReadWrite, 0, None;
        TBDR_COMMAND ReadWrite, 0, None;
        TBDR_CONFIG ReadWrite, 0, None;
        NVM_COMMAND ReadWrite, 0, NvramCommand;
        NVM_STATUS ReadOnly, 0, None;
        NVM_WRITE ReadWrite, 0, None;
        NVM_ADDR ReadWrite, 0, None;
        NVM_READ ReadOnly, !0, None;
        NVM_CFG1 ReadWrite, 0, None;
        NVM_CFG2 ReadWrite, 0, None;
        NVM_CFG3 ReadWrite, 0, None;
        NVM_SW_ARB ReadWrite, 0, NvramArbitration;
        NVM_ACCESS_ENABLE ReadWrite, 0, None;
        HC_COMMAND SelfClearing(HC_NOW), 0, CoalesceNow;
        HC_STATUS ReadOnly, 0, None;
        HC_CONFIG ReadWrite, 0, HcModes;
        HC_ATTN_BITS_ENABLE ReadWrite, 0, None;
        HC_STATUS_ADDR_L ReadWrite, 0, StatusBlock;
        HC_STATUS_ADDR_H ReadWrite, 0, StatusBlock;
        HC_STATISTICS_ADDR_L ReadWrite, 0, StatisticsBlock;
        HC_STATISTICS_ADDR_H ReadWrite, 0, StatisticsBlock;
        HC_TX_QUICK_CONS_TRIP ReadWrite, 0, Thresholds;
        HC_COMP_PROD_TRIP ReadWrite, 0, Thresholds;
        HC_RX_QUICK_CONS_TRIP ReadWrite, 0, Thresholds;
        HC_RX_TICKS ReadWrite, 0, Thresholds;
        HC_TX_TICKS ReadWrite, 0, Thresholds;
        HC_COM_TICKS ReadWrite, 0, Thresholds;
        HC_CMD_TICKS ReadWrite, 0, Thresholds;
        HC_PERIODIC_TICKS ReadWrite, 0, None;
        HC_STAT_COLLECT_TICKS ReadWrite, 0, None;
        HC_STATS_TICKS ReadWrite, 0, StatisticsBlock;
        HC_COALESCE_NOW
            SelfClearing(regs::HC_COALESCE_NOW_COAL_NOW | regs::HC_COALESCE_NOW_COAL_NOW_WO_INT), 0,
            CoalesceVectors;
        HC_MSIX_BIT_VECTOR ReadWrite, 0, None;
    }
};

const AFTER_VECTORS: &[Register] = table! {
    Grc {
        COM_DOORBELL_ENABLE ReadWrite, 0, KcqGo;
        FW_RX_LOW_LATENCY ReadWrite, 0, None;
        FW_RX_DROP_COUNT ReadWrite, 0, None;
        MCP_TOE_ID ReadOnly, 0, None;
    }
    Shmem {
        DRV_MB ReadWrite, 0, DriverMailbox;
    }
    Grc {
        CP_CPU_MODE ReadWrite, 0, CpStart;
        CP_DOORBELL_ENABLE ReadWrite, 0, KwqGo;
        PG_CTX_MAP ReadWrite, 0, None;
        ISCSI_CTX_MAP ReadWrite, 0, None;
        FW_MAX_ISCSI_CONN ReadWrite, 0, None;
        RBUF_COMMAND ReadWrite, 0, None;
        RBUF_CONFIG ReadWrite, 0, None;
        RBUF_CONFIG2 ReadWrite, 0, None;
        RBUF_CONFIG3 ReadWrite, 0, None;
    }
};

const GROUPS: &[&[Register]] = &[
    BEFORE_VECTORS,
    vector!(1),
    vector!(2),
    vector!(3),
    vector!(4),
    vector!(5),
    vector!(6),
    vector!(7),
    vector!(8),
    AFTER_VECTORS,
];

const COUNT: usize = {
    let (mut n, mut group) = (0, 0);
    while group < GROUPS.len() {
        n += GROUPS[group].len();
        group += 1;
    }
    n
};

const fn joined() -> [Register; COUNT] {
    let mut all = [GROUPS[0][0]; COUNT];
    let (mut n, mut group) = (0, 0);
    while group < GROUPS.len() {
        let mut i = 0;
        while i < GROUPS[group].len() {
            all[n] = GROUPS[group][i];
            n += 1;
            i += 1;
        }
        group += 1;
    }
    all
}

/// All modelled registers, in the order of their addresses.
pub const REGISTERS: &[Register] = &joined();

const CPU_REGISTERS: u32 = 0x400;
const SCRATCH: u32 = 0x2_0000;

/// Address ranges that are memory on the chip, and registers that are as good as memory because their reader
/// is firmware that is not run: name, first byte, bytes.
pub const MEMORIES: &[(&str, u32, u32)] = &[
    ("RV2P_INSTR", regs::RV2P_INSTR_HIGH, 0x10),
    ("MQ_KNL_MASKS", regs::MQ_KNL_WRITE_MASK1, 0x74),
    ("TXP_CPU", regs::TXP_CPU_MODE, CPU_REGISTERS),
    ("TXP_SCRATCH", regs::TXP_SCRATCH, SCRATCH),
    ("TPAT_CPU", regs::TPAT_CPU_MODE, CPU_REGISTERS),
    ("TPAT_SCRATCH", regs::TPAT_SCRATCH, SCRATCH),
    ("RXP_CPU", regs::RXP_CPU_MODE, CPU_REGISTERS),
    ("RXP_SCRATCH", regs::RXP_SCRATCH, SCRATCH),
    ("COM_CPU", regs::COM_CPU_MODE, CPU_REGISTERS),
    ("COM_SCRATCH", regs::COM_SCRATCH, SCRATCH),
    ("MCP_CPU", regs::MCP_CPU_MODE, CPU_REGISTERS),
    ("MCP_SCRATCH", regs::MCP_SCRATCH, SCRATCH),
    ("CP_CPU", regs::CP_CPU_MODE, CPU_REGISTERS),
    ("CP_SCRATCH", regs::CP_SCRATCH, SCRATCH),
];

/// Bytes of the GRC address space. Higher addresses are unmodelled and read zero.
const GRC_BYTES: u32 = 0x40_0000;

/// Unmodelled addresses that are listed one by one; accesses to more are only counted in total.
pub const UNMODELLED_LISTED: usize = 1024;

/// How an unmodelled register was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unmodelled {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// The register file of one card.
pub struct RegisterFile {
    value: Vec<u32>,
    reset: Vec<u32>,
    memory: SparseMem,
    unmodelled: BTreeMap<u32, Unmodelled>,
    unlisted: u64,
}

fn find(space: Space, at: u32) -> Option<usize> {
    let pci = space == Space::PciCfg;
    let key = |r: &Register| (r.space != Space::PciCfg, r.at);
    REGISTERS.binary_search_by_key(&(!pci, at), key).ok()
}

/// The index of a register that the table is known to have.
fn index(space: Space, at: u32) -> usize {
    find(space, at).expect("the register is in the table")
}

impl RegisterFile {
    /// Registers in their power-on state. `straps` replaces reset values: (GRC address, value).
    pub(super) fn new(config: &ChipConfig, straps: &[(u32, u32)]) -> Self {
        let mut reset: Vec<u32> = REGISTERS.iter().map(|r| r.reset).collect();
        for &(at, value) in straps {
            reset[index(Space::Grc, at)] = value;
        }
        let mut file = Self {
            value: reset.clone(),
            reset,
            memory: SparseMem::new(GRC_BYTES),
            unmodelled: BTreeMap::new(),
            unlisted: 0,
        };
        file.power_on(config);
        file
    }

    /// Power-on: everything at its reset value, shared memory as boot code leaves it.
    pub(super) fn power_on(&mut self, config: &ChipConfig) {
        self.value.copy_from_slice(&self.reset);
        self.memory.clear();
        super::shmem::image(config, |at, value| self.memory.write(at, value));
    }

    /// A reset by register: configuration space and shared memory stay.
    pub(super) fn soft_reset(&mut self) {
        for (i, r) in REGISTERS.iter().enumerate() {
            if r.space == Space::Grc {
                self.value[i] = self.reset[i];
            }
        }
        let kept = (regs::MCP_SCRATCH..regs::MCP_SCRATCH + SCRATCH).step_by(4);
        let kept: Vec<(u32, u32)> = kept.map(|at| (at, self.memory.read(at))).filter(|w| w.1 != 0).collect();
        self.memory.clear();
        kept.into_iter().for_each(|(at, value)| self.memory.write(at, value));
    }

    /// The private registers of configuration space at their reset values.
    pub(super) fn reset_config_space(&mut self) {
        for (i, r) in REGISTERS.iter().enumerate() {
            if r.space == Space::PciCfg {
                self.value[i] = self.reset[i];
            }
        }
    }

    /// The stored value of a modelled register.
    pub(super) fn get(&self, at: u32) -> u32 {
        self.value[index(Space::Grc, at)]
    }

    /// The chip changes a modelled register.
    pub(super) fn set(&mut self, at: u32, value: u32) {
        self.value[index(Space::Grc, at)] = value;
    }

    /// A word of shared memory, by its offset.
    #[cfg(test)]
    pub(super) fn shmem(&self, offset: u32) -> u32 {
        self.memory.read(shmem::HOST_VIEW_SHMEM_BASE + offset)
    }

    /// The chip changes a word of shared memory, by its offset.
    pub(super) fn set_shmem(&mut self, offset: u32, value: u32) {
        self.memory.write(shmem::HOST_VIEW_SHMEM_BASE + offset, value);
    }

    /// A host reads.
    pub(super) fn read(&mut self, space: Space, at: u32) -> u32 {
        match find(space, at) {
            Some(i) if REGISTERS[i].access == WriteOnly => 0,
            Some(i) => self.value[i],
            None => {
                // Whoever dumps config space reads all of it; that says nothing about the model.
                if space != Space::PciCfg {
                    self.count(at, |u| u.reads += 1);
                }
                self.memory.read(at)
            }
        }
    }

    /// The firmware of the command processor has started: its words of the scratchpad say what they said
    /// after the reset.
    pub(super) fn start_cp(&mut self) {
        for at in [regs::PG_CTX_MAP, regs::ISCSI_CTX_MAP, regs::FW_MAX_ISCSI_CONN] {
            let i = index(Space::Grc, at);
            self.value[i] = self.reset[i];
        }
    }

    /// A host writes. Returns what else has to happen.
    pub(super) fn write(&mut self, space: Space, at: u32, value: u32) -> Effect {
        let fixed = if space == Space::Grc { fixed::bits(at) } else { 0 };
        let Some(i) = find(space, at) else {
            self.count(at, |u| u.writes += 1);
            self.memory.write(at, value & !fixed | self.memory.read(at) & fixed);
            return Effect::None;
        };
        let value = value & !fixed | self.value[i] & fixed;
        let r = &REGISTERS[i];
        match r.access {
            ReadOnly => return Effect::None,
            ReadWrite => self.value[i] = value,
            WriteOnly => {}
            WriteOneClear(bits) => self.value[i] &= !(value & bits),
            SelfClearing(bits) => self.value[i] = value & !bits,
        }
        r.effect
    }

    fn count(&mut self, at: u32, f: impl FnOnce(&mut Unmodelled)) {
        if MEMORIES.iter().any(|&(_, first, bytes)| at.wrapping_sub(first) < bytes) {
            return;
        }
        let room = self.unmodelled.len() < UNMODELLED_LISTED;
        match self.unmodelled.get_mut(&at) {
            Some(u) => f(u),
            None if room => f(self.unmodelled.entry(at).or_default()),
            None => self.unlisted += 1,
        }
    }

    /// Unmodelled registers that were used, in the order of their addresses.
    pub fn unmodelled(&self) -> impl Iterator<Item = (u32, Unmodelled)> + '_ {
        self.unmodelled.iter().map(|(&at, &u)| (at, u))
    }

    /// Accesses to unmodelled registers beyond the first [`UNMODELLED_LISTED`] addresses.
    #[must_use]
    pub fn unlisted(&self) -> u64 {
        self.unlisted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> RegisterFile {
        RegisterFile::new(&ChipConfig::default(), &[(regs::MQ_CONFIG2, 0x220)])
    }

    #[test]
    fn the_table_is_in_order_and_names_each_address_once() {
        let key = |r: &Register| (r.space != Space::PciCfg, r.at);
        assert!(REGISTERS.is_sorted_by(|a, b| key(a) < key(b)));
        for r in REGISTERS {
            assert_eq!(r.at % Register::WIDTH, 0, "{}", r.name);
        }
    }

    #[test]
    fn access_kinds() {
        let mut f = file();
        assert_eq!(f.write(Space::Grc, regs::PCI_SWAP_DIAG0, 5), Effect::None);
        assert_eq!(f.read(Space::Grc, regs::PCI_SWAP_DIAG0), 0x0102_0304, "read-only");
        f.write(Space::Grc, regs::HC_RX_TICKS, 18);
        assert_eq!(f.read(Space::Grc, regs::HC_RX_TICKS), 18, "read-write");
        let now = regs::HC_COMMAND_COAL_NOW | regs::HC_COMMAND_ENABLE;
        assert_eq!(f.write(Space::Grc, regs::HC_COMMAND, now), Effect::CoalesceNow);
        assert_eq!(f.read(Space::Grc, regs::HC_COMMAND), regs::HC_COMMAND_ENABLE, "self-clearing");
        f.set(regs::EMAC_STATUS, 0x1800);
        f.write(Space::Grc, regs::EMAC_STATUS, 0x1000);
        assert_eq!(f.read(Space::Grc, regs::EMAC_STATUS), 0x800, "write one to clear");
        f.write(Space::PciCfg, regs::PCICFG_STATUS_BIT_SET_CMD, 1);
        assert_eq!(f.read(Space::PciCfg, regs::PCICFG_STATUS_BIT_SET_CMD), 0, "write-only");
        assert_eq!(f.read(Space::Grc, regs::MQ_CONFIG2), 0x220, "strapped");
    }

    #[test]
    fn a_reset_by_register_keeps_shared_memory() {
        let mut f = file();
        let pulse = shmem::HOST_VIEW_SHMEM_BASE + shmem::DRV_PULSE_MB;
        f.write(Space::Grc, pulse, 77);
        f.write(Space::Grc, regs::HC_RX_TICKS, 18);
        f.write(Space::Grc, regs::CP_SCRATCH + 0x100, 1);
        f.soft_reset();
        assert_eq!(f.read(Space::Grc, pulse), 77);
        assert_eq!(
            (f.read(Space::Grc, regs::HC_RX_TICKS), f.read(Space::Grc, regs::CP_SCRATCH + 0x100)),
            (0, 0)
        );
        f.power_on(&ChipConfig::default());
        assert_eq!(f.read(Space::Grc, pulse), 0);
        assert_eq!(f.shmem(shmem::DEV_INFO_SIGNATURE) & 0xffff_ff00, 0x4456_4900);
    }

    #[test]
    fn unmodelled_registers_answer_like_memory_and_are_listed_up_to_a_limit() {
        let mut f = file();
        f.write(Space::Grc, 0x4000, 9);
        assert_eq!(f.read(Space::Grc, 0x4000), 9);
        f.write(Space::Grc, regs::RXP_SCRATCH + 8, 1);
        let listed: Vec<_> = f.unmodelled().collect();
        assert_eq!(listed, [(0x4000, Unmodelled { reads: 1, writes: 1 })], "scratchpads are memory");
        for i in 0..2 * UNMODELLED_LISTED as u32 {
            f.read(Space::Grc, 0x30_0000 + 4 * i);
        }
        assert_eq!(f.unmodelled().count(), UNMODELLED_LISTED);
        assert_eq!(f.unlisted(), UNMODELLED_LISTED as u64 + 1);
    }
}
