//! Kernel work queue: 32-byte control requests, host to chip (BNX2I-CNIC 0.3, 0.4, 2.5, 4.4 to 4.8, A.4).
//!
//! One ring per function, context 24. Layer 6 (iSCSI) and the generic element are here, layer 4 (TCP) in
//! [`crate::kernel::l4`].

use crate::bcm5709::pte::IscsiPte;
use crate::facts::{addr64, blank, byte_enum, facts, views, wire};
use crate::{U16, U32};

wire! {
    /// Opcode and layer of an iSCSI KWQE.
    pub struct IscsiKwqeHeader = "iscsi_kwqe_header" [2] {
        /// Opcode.
        pub op_code: IscsiKwqeOpcode,
        /// Flags.
        pub flags: u8,
    }

    /// Ring sizes, first half of the function-wide set-up (BNX2I-CNIC 2.5).
    pub struct IscsiKwqeInit1 = "iscsi_kwqe_init1" [32] {
        /// Completion queues per connection; 1.
        pub num_cqs: u8,
        reserved0: u8,
        /// Opcode and layer.
        pub hdr: IscsiKwqeHeader,
        /// Dummy page, low address word.
        pub dummy_buffer_addr_lo: U32,
        /// Dummy page, high address word.
        pub dummy_buffer_addr_hi: U32,
        /// Tasks per connection.
        pub num_tasks_per_conn: U16,
        /// Command cells per connection; half the tasks.
        pub num_ccells_per_conn: U16,
        /// SQ entries.
        pub sq_num_wqes: U16,
        /// SQ entries per page.
        pub sq_wqes_per_page: U16,
        /// CQ entries.
        pub cq_num_wqes: U16,
        /// Flags.
        pub flags: u8,
        /// log2 of CQ entries per page.
        pub cq_log_wqes_per_page: u8,
        /// SQ pages.
        pub sq_num_pages: U16,
        /// CQ pages.
        pub cq_num_pages: U16,
        /// RQ buffers.
        pub rq_num_wqes: U16,
        /// Bytes of one RQ buffer; 256.
        pub rq_buffer_size: U16,
    }

    /// Error classes and CQ numbering, second half of the set-up (BNX2I-CNIC 2.5).
    pub struct IscsiKwqeInit2 = "iscsi_kwqe_init2" [32] {
        /// Exclusive upper bound of the CQ sequence number: 2 * CQ entries + 1.
        pub max_cq_sqn: U16,
        /// Opcode and layer.
        pub hdr: IscsiKwqeHeader,
        /// Error classes: bit n set makes completion status n a warning.
        pub error_bit_map: [U32; 2],
        reserved1: [U32; 5],
    }

    /// SQ and CQ of a new connection (BNX2I-CNIC 4.4).
    pub struct IscsiKwqeConnOffload1 = "iscsi_kwqe_conn_offload1" [32] {
        /// Connection index of the host (iscsi_cid).
        pub iscsi_conn_id: U16,
        /// Opcode and layer.
        pub hdr: IscsiKwqeHeader,
        /// SQ page table, low address word.
        pub sq_page_table_addr_lo: U32,
        /// SQ page table, high address word.
        pub sq_page_table_addr_hi: U32,
        /// CQ page table, low address word.
        pub cq_page_table_addr_lo: U32,
        /// CQ page table, high address word.
        pub cq_page_table_addr_hi: U32,
        reserved0: [U32; 3],
    }

    /// RQ of a new connection, and first page-table entries (BNX2I-CNIC 4.4).
    pub struct IscsiKwqeConnOffload2 = "iscsi_kwqe_conn_offload2" [32] {
        reserved0: U16,
        /// Opcode and layer.
        pub hdr: IscsiKwqeHeader,
        /// RQ page table, low address word.
        pub rq_page_table_addr_lo: U32,
        /// RQ page table, high address word.
        pub rq_page_table_addr_hi: U32,
        /// Copy of the first SQ page-table entry.
        pub sq_first_pte: IscsiPte,
        /// Copy of the first CQ page-table entry.
        pub cq_first_pte: IscsiPte,
        /// KWQEs that follow for the same connection; 0 on the 5709.
        pub num_additional_wqes: U32,
    }

    /// Negotiated parameters after login (BNX2I-CNIC 4.7). The driver does not initialise bytes 0 and 1.
    pub struct IscsiKwqeConnUpdate = "iscsi_kwqe_conn_update" [32] {
        reserved0: U16,
        /// Opcode and layer.
        pub hdr: IscsiKwqeHeader,
        /// Connection flags.
        pub conn_flags: u8,
        reserved2: u8,
        /// MaxOutstandingR2T.
        pub max_outstanding_r2ts: u8,
        /// ErrorRecoveryLevel.
        pub session_error_recovery_level: u8,
        /// Context id: the context address shifted down by 7.
        pub context_id: U32,
        /// Target's MaxRecvDataSegmentLength.
        pub max_send_pdu_length: U32,
        /// Initiator's MaxRecvDataSegmentLength.
        pub max_recv_pdu_length: U32,
        /// FirstBurstLength.
        pub first_burst_length: U32,
        /// MaxBurstLength.
        pub max_burst_length: U32,
        /// ExpStatSN.
        pub exp_stat_sn: U32,
    }

    /// Frees the context of a connection (BNX2I-CNIC 4.8).
    pub struct IscsiKwqeConnDestroy = "iscsi_kwqe_conn_destroy" [32] {
        reserved0: U16,
        /// Opcode and layer.
        pub hdr: IscsiKwqeHeader,
        /// Context id: the context address shifted down by 7.
        pub context_id: U32,
        reserved1: [U32; 6],
    }

    /// Any KWQE, before layer and opcode are known (BNX2I-CNIC 0.3).
    pub struct Kwqe = "kwqe" [32] {
        /// Operand (15..0), opcode (23..16), layer (30..28), linked (31).
        pub kwqe_op_flag: U32,
        /// Word 1.
        pub kwqe_info0: U32,
        /// Word 2.
        pub kwqe_info1: U32,
        /// Word 3.
        pub kwqe_info2: U32,
        /// Word 4.
        pub kwqe_info3: U32,
        /// Word 5.
        pub kwqe_info4: U32,
        /// Word 6.
        pub kwqe_info5: U32,
        /// Word 7.
        pub kwqe_info6: U32,
    }
}

facts! {
    prefix "";
    Bits("iscsi_kwqe_header", "flags"): u8 {
        ISCSI_KWQE_HEADER_RESERVED0 = 0xf,
        ISCSI_KWQE_HEADER_LAYER_CODE = 0x70,
        ISCSI_KWQE_HEADER_RESERVED1 = 0x80,
    }
    Bits("iscsi_kwqe_init1", "flags"): u8 {
        ISCSI_KWQE_INIT1_PAGE_SIZE = 0xf,
        ISCSI_KWQE_INIT1_DELAYED_ACK_ENABLE = 0x10,
        ISCSI_KWQE_INIT1_KEEP_ALIVE_ENABLE = 0x20,
        ISCSI_KWQE_INIT1_TIME_STAMPS_ENABLE = 0x40,
        ISCSI_KWQE_INIT1_RESERVED1 = 0x80,
    }
    Bits("iscsi_kwqe_conn_update", "conn_flags"): u8 {
        ISCSI_KWQE_CONN_UPDATE_HEADER_DIGEST = 0x1,
        ISCSI_KWQE_CONN_UPDATE_DATA_DIGEST = 0x2,
        ISCSI_KWQE_CONN_UPDATE_INITIAL_R2T = 0x4,
        ISCSI_KWQE_CONN_UPDATE_IMMEDIATE_DATA = 0x8,
        ISCSI_KWQE_CONN_UPDATE_OOO_SUPPORT_MODE = 0x30,
        ISCSI_KWQE_CONN_UPDATE_RESERVED1 = 0xc0,
    }
    Bits("kwqe", "kwqe_op_flag"): u32 {
        KWQE_OPCODE_MASK = 0xff0000,
        KWQE_LAYER_MASK = 0x70000000,
    }
    Value("kwqe", "kwqe_op_flag"): u32 {
        KWQE_FLAGS_LAYER_MASK_L2 = 0x20000000,
        KWQE_FLAGS_LAYER_MASK_L3 = 0x30000000,
        KWQE_FLAGS_LAYER_MASK_L4 = 0x40000000,
        KWQE_FLAGS_LAYER_MASK_L5_RDMA = 0x50000000,
        KWQE_FLAGS_LAYER_MASK_L5_ISCSI = 0x60000000,
        KWQE_FLAGS_LAYER_MASK_L5_FCOE = 0x70000000,
    }
    Constant(): u8 {
        ISCSI_PAGE_SIZE_256 = 0x0,
        ISCSI_PAGE_SIZE_512 = 0x1,
        ISCSI_PAGE_SIZE_1K = 0x2,
        ISCSI_PAGE_SIZE_2K = 0x3,
        ISCSI_PAGE_SIZE_4K = 0x4,
        ISCSI_PAGE_SIZE_8K = 0x5,
        ISCSI_PAGE_SIZE_16K = 0x6,
        ISCSI_PAGE_SIZE_32K = 0x7,
        ISCSI_PAGE_SIZE_64K = 0x8,
        ISCSI_PAGE_SIZE_128K = 0x9,
        ISCSI_PAGE_SIZE_256K = 0xa,
        ISCSI_PAGE_SIZE_512K = 0xb,
        ISCSI_PAGE_SIZE_1M = 0xc,
        ISCSI_PAGE_SIZE_2M = 0xd,
        ISCSI_PAGE_SIZE_4M = 0xe,
        ISCSI_PAGE_SIZE_8M = 0xf,
    }
}

byte_enum! {
    /// Opcode of a layer 6 KWQE (BNX2I-CNIC 0.4).
    pub struct IscsiKwqeOpcode(u8), prefix "ISCSI_KWQE_OPCODE_" {
        /// First of an offload; [`IscsiKwqeConnOffload1`].
        OFFLOAD_CONN1 = 0,
        /// Second of an offload; [`IscsiKwqeConnOffload2`].
        OFFLOAD_CONN2 = 1,
        /// [`IscsiKwqeConnUpdate`].
        UPDATE_CONN = 2,
        /// [`IscsiKwqeConnDestroy`].
        DESTROY_CONN = 3,
        /// [`IscsiKwqeInit1`].
        INIT1 = 4,
        /// [`IscsiKwqeInit2`].
        INIT2 = 5,
    }
}

byte_enum! {
    /// Opcode of a layer 2 KWQE.
    pub struct L2KwqeOpcode(u8), prefix "L2_KWQE_OPCODE_VALUE_" {
        /// Flush of a receive ring; not answered.
        FLUSH = 4,
        /// Frees a receive queue of a virtual machine.
        VM_FREE_RX_QUEUE = 8,
    }
}

byte_enum! {
    /// Layer of a KWQE or KCQE: bits 30..28 of its common word (BNX2I-CNIC 0.3).
    pub struct Layer(u8), prefix "" {
        /// Miscellaneous.
        MISC = 0 => external,
        /// Ethernet.
        L2 = 2 => "L2_LAYER_CODE",
        /// Network.
        L3 = 3 => external,
        /// TCP connection manager.
        L4 = 4 => "L4_LAYER_CODE",
        /// RDMA.
        RDMA = 5 => external,
        /// iSCSI.
        ISCSI = 6 => "ISCSI_KWQE_LAYER_CODE",
        /// FCoE.
        FCOE = 7 => external,
    }
}

views! {
    Kwqe: IscsiKwqeInit1, IscsiKwqeInit2, IscsiKwqeConnOffload1, IscsiKwqeConnOffload2, IscsiKwqeConnUpdate,
    IscsiKwqeConnDestroy,
}

addr64! {
    IscsiKwqeInit1 { dummy_buffer_addr / set_dummy_buffer_addr = dummy_buffer_addr_hi, dummy_buffer_addr_lo; }
    IscsiKwqeConnOffload1 {
        sq_page_table_addr / set_sq_page_table_addr = sq_page_table_addr_hi, sq_page_table_addr_lo;
        cq_page_table_addr / set_cq_page_table_addr = cq_page_table_addr_hi, cq_page_table_addr_lo;
    }
    IscsiKwqeConnOffload2 { rq_page_table_addr / set_rq_page_table_addr = rq_page_table_addr_hi, rq_page_table_addr_lo; }
}

blank! {
    IscsiKwqeInit1 { hdr = IscsiKwqeHeader::new(IscsiKwqeOpcode::INIT1) }
    IscsiKwqeInit2 { hdr = IscsiKwqeHeader::new(IscsiKwqeOpcode::INIT2) }
    IscsiKwqeConnOffload1 { hdr = IscsiKwqeHeader::new(IscsiKwqeOpcode::OFFLOAD_CONN1) }
    IscsiKwqeConnOffload2 { hdr = IscsiKwqeHeader::new(IscsiKwqeOpcode::OFFLOAD_CONN2) }
    IscsiKwqeConnUpdate { hdr = IscsiKwqeHeader::new(IscsiKwqeOpcode::UPDATE_CONN) }
}

impl Kwqe {
    /// Layer.
    pub const fn layer(&self) -> Layer {
        Layer((self.kwqe_op_flag.get() >> 28 & 7) as u8)
    }

    /// Opcode; its meaning depends on the layer.
    pub const fn opcode(&self) -> u8 {
        (self.kwqe_op_flag.get() >> 16) as u8
    }

    /// The next KWQE belongs to this one.
    pub const fn linked_with_next(&self) -> bool {
        self.kwqe_op_flag.get() >> 31 != 0
    }

    /// Small operand, bits 15..0.
    pub const fn operand(&self) -> u16 {
        self.kwqe_op_flag.get() as u16
    }
}

impl IscsiKwqeHeader {
    /// Header of layer 6 with this opcode.
    pub const fn new(op_code: IscsiKwqeOpcode) -> Self {
        Self { op_code, flags: Layer::ISCSI.0 << 4 }
    }
}

impl IscsiKwqeInit1 {
    /// Page size in bytes that the low bits of `flags` encode.
    pub const fn page_size(&self) -> u32 {
        256 << (self.flags & ISCSI_KWQE_INIT1_PAGE_SIZE)
    }
}

impl IscsiKwqeInit2 {
    /// Error classes as one number: bit n set makes completion status n a warning (BNX2I-CNIC 6.1).
    pub const fn error_mask(&self) -> u64 {
        (self.error_bit_map[1].get() as u64) << 32 | self.error_bit_map[0].get() as u64
    }

    /// Sets the error classes.
    pub const fn set_error_mask(&mut self, mask: u64) {
        self.error_bit_map = [U32::new(mask as u32), U32::new((mask >> 32) as u32)];
    }
}

impl IscsiKwqeConnDestroy {
    /// For the context id `context_id`; `iscsi_cid` goes into the otherwise unused low half of word 0
    /// (BNX2I-CNIC 4.8).
    pub fn new(iscsi_cid: u16, context_id: u32) -> Self {
        Self {
            reserved0: U16::new(iscsi_cid),
            hdr: IscsiKwqeHeader::new(IscsiKwqeOpcode::DESTROY_CONN),
            context_id: U32::new(context_id),
            ..Self::default()
        }
    }

    /// Connection index of the host.
    pub const fn iscsi_cid(&self) -> u16 {
        self.reserved0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;

    /// BNX2I-CNIC B.6: word 0 of INIT1, INIT2 and DESTROY of cid 5.
    #[test]
    fn common_word() {
        let init1 = IscsiKwqeInit1 {
            num_cqs: 1,
            hdr: IscsiKwqeHeader::new(IscsiKwqeOpcode::INIT1),
            ..Default::default()
        };
        assert_eq!(init1.into_element().kwqe_op_flag.get(), 0x6004_0001);
        let init2 = IscsiKwqeInit2 { max_cq_sqn: U16::new(0x181), ..IscsiKwqeInit2::blank() };
        assert_eq!(init2.into_element().kwqe_op_flag.get(), 0x6005_0181);
        let destroy = IscsiKwqeConnDestroy::new(5, 0x100).into_element();
        assert_eq!(destroy.kwqe_op_flag.get(), 0x6003_0005);
        assert_eq!((destroy.layer(), destroy.opcode()), (Layer::ISCSI, IscsiKwqeOpcode::DESTROY_CONN.0));
        assert_eq!(destroy.view::<IscsiKwqeConnDestroy>().iscsi_cid(), 5);
    }

    /// BNX2I-CNIC B.6: word 5 of INIT1 with CQ 192, page code 4 and delayed ACK.
    #[test]
    fn init1_word_5() {
        let init1 = IscsiKwqeInit1 {
            cq_num_wqes: U16::new(192),
            flags: ISCSI_PAGE_SIZE_4K | ISCSI_KWQE_INIT1_DELAYED_ACK_ENABLE,
            cq_log_wqes_per_page: 6,
            ..Default::default()
        };
        assert_eq!(init1.page_size(), 4096);
        assert_eq!(init1.into_element().kwqe_info4.get(), 0x0614_00c0);
    }
}
