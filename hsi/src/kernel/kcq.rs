//! Kernel completion queue: 32-byte completions and events, chip to host (BNX2I-CNIC 0.3, 0.4, 5.9, 6.2,
//! A.4).
//!
//! One ring per function, context 25. Layer 6 (iSCSI) and the generic element are here, layer 4 (TCP) in
//! [`crate::kernel::l4`].

use crate::facts::{byte_enum, facts, open_enum, views, wire};
use crate::kernel::kwq::Layer;
use crate::{U16, U32};

wire! {
    /// Parameters of an iSCSI KCQE. A union with one member.
    pub struct IscsiKcqeParams = "iscsi_kcqe_params" [16] {
        reserved0: [U32; 4],
    }

    /// Completion or event of the iSCSI layer (BNX2I-CNIC A.4).
    pub struct IscsiKcqe = "iscsi_kcqe" [32] {
        /// Connection index of the host (iscsi_cid).
        pub iscsi_conn_id: U32,
        /// Completion status.
        pub completion_status: U32,
        /// Context address (cid << 7).
        pub iscsi_conn_context_id: U32,
        /// Parameters, opcode specific; unused by iSCSI.
        pub params: IscsiKcqeParams,
        /// Sequence number, written by the chip.
        pub qe_self_seq: U16,
        /// Opcode.
        pub op_code: IscsiKcqeOpcode,
        /// Flags.
        pub flags: u8,
    }

    /// Any KCQE, before layer and opcode are known (BNX2I-CNIC 0.3).
    pub struct Kcqe = "kcqe" [32] {
        /// Word 0.
        pub kcqe_info0: U32,
        /// Word 1.
        pub kcqe_info1: U32,
        /// Word 2.
        pub kcqe_info2: U32,
        /// Word 3.
        pub kcqe_info3: U32,
        /// Word 4.
        pub kcqe_info4: U32,
        /// Word 5.
        pub kcqe_info5: U32,
        /// Word 6.
        pub kcqe_info6: U32,
        /// Sequence number (15..0), opcode (23..16), layer (30..28), next (31).
        pub kcqe_op_flag: U32,
    }
}

facts! {
    prefix "";
    Bits("iscsi_kcqe", "flags"): u8 {
        ISCSI_KCQE_RESERVED0 = 0xf,
        ISCSI_KCQE_LAYER_CODE = 0x70,
        ISCSI_KCQE_RESERVED1 = 0x80,
    }
    Bits("kcqe", "kcqe_op_flag"): u32 {
        KCQE_RAMROD_COMPLETION = 0x8000000,
        KCQE_FLAGS_LAYER_MASK = 0x70000000,
        KCQE_FLAGS_NEXT = 0x80000000,
        KCQE_FLAGS_OPCODE_MASK = 0xff0000,
    }
    Value("kcqe", "kcqe_op_flag"): u32 {
        KCQE_FLAGS_LAYER_MASK_MISC = 0x0,
        KCQE_FLAGS_LAYER_MASK_L2 = 0x20000000,
        KCQE_FLAGS_LAYER_MASK_L3 = 0x30000000,
        KCQE_FLAGS_LAYER_MASK_L4 = 0x40000000,
        KCQE_FLAGS_LAYER_MASK_L5_RDMA = 0x50000000,
        KCQE_FLAGS_LAYER_MASK_L5_ISCSI = 0x60000000,
        KCQE_FLAGS_LAYER_MASK_L5_FCOE = 0x70000000,
    }
}

byte_enum! {
    /// Opcode of a layer 6 KCQE (BNX2I-CNIC 0.4).
    pub struct IscsiKcqeOpcode(u8), prefix "ISCSI_KCQE_OPCODE_" {
        /// Answer to the OFFLOAD_CONN pair.
        OFFLOAD_CONN = 0x10,
        /// Answer to UPDATE_CONN.
        UPDATE_CONN = 0x12,
        /// Answer to DESTROY_CONN.
        DESTROY_CONN = 0x13,
        /// Answer to INIT1 and INIT2.
        INIT = 0x14,
        /// Task cleaned by firmware; the real driver does not know it.
        FW_CLEAN_TASK = 0x15,
        /// TCP reset; the real driver does not know it.
        TCP_RESET = 0x16,
        /// TCP SYN; the real driver does not know it.
        TCP_SYN = 0x17,
        /// TCP FIN; the real driver does not know it.
        TCP_FIN = 0x18,
        /// TCP error of a connection.
        TCP_ERROR = 0x19,
        /// CQ entries are waiting on a connection.
        CQ_EVENT_NOTIFICATION = 0x20,
        /// iSCSI protocol violation on a connection.
        ISCSI_ERROR = 0x21,
    }
}

open_enum! {
    /// Completion status of an iSCSI KCQE (BNX2I-CNIC 6.2).
    pub struct CompletionStatus(u32), prefix "ISCSI_KCQE_COMPLETION_STATUS_" {
        /// Success.
        SUCCESS = 0x00,
        /// KWQE not understood.
        INVALID_OPCODE = 0x01,
        /// No context, or licence limit reached.
        CTX_ALLOC_FAILURE = 0x02,
        /// DESTROY failed.
        CTX_FREE_FAILURE = 0x03,
        /// Internal error.
        NIC_ERROR = 0x04,
        /// Header digest mismatch.
        HDR_DIG_ERR = 0x05,
        /// Data digest mismatch.
        DATA_DIG_ERR = 0x06,
        /// Opcode legal, but not in this phase.
        PROTOCOL_ERR_UNEXPECTED_OPCODE = 0x0a,
        /// Undefined target opcode.
        PROTOCOL_ERR_OPCODE = 0x0b,
        /// TotalAHSLength not zero.
        PROTOCOL_ERR_AHS_LEN = 0x0c,
        /// ITT not active, or of the wrong type.
        PROTOCOL_ERR_ITT = 0x0d,
        /// StatSN is not ExpStatSN.
        PROTOCOL_ERR_STATSN = 0x0e,
        /// ExpDataSN differs from the PDUs counted; a warning by default.
        PROTOCOL_ERR_EXP_DATASN = 0x0f,
        /// Response while an R2T is unsatisfied.
        PROTOCOL_ERR_PEND_R2T = 0x10,
        /// Over/underflow flags and residual count do not fit the data moved, case 0.
        PROTOCOL_ERR_O_U_0 = 0x11,
        /// Over/underflow flags and residual count do not fit the data moved, case 1.
        PROTOCOL_ERR_O_U_1 = 0x12,
        /// Over/underflow flags and residual count do not fit the data moved, case 2.
        PROTOCOL_ERR_O_U_2 = 0x13,
        /// Over/underflow flags and residual count do not fit the data moved, case 3.
        PROTOCOL_ERR_O_U_3 = 0x14,
        /// Over/underflow flags and residual count do not fit the data moved, case 4.
        PROTOCOL_ERR_O_U_4 = 0x15,
        /// Over/underflow flags and residual count do not fit the data moved, case 5.
        PROTOCOL_ERR_O_U_5 = 0x16,
        /// Over/underflow flags and residual count do not fit the data moved, case 6.
        PROTOCOL_ERR_O_U_6 = 0x17,
        /// Data-In beyond the command's length.
        PROTOCOL_ERR_REMAIN_RCV_LEN = 0x18,
        /// Segment larger than MaxRecvDataSegmentLength.
        PROTOCOL_ERR_MAX_RCV_PDU_LEN = 0x19,
        /// F bit missing where required.
        PROTOCOL_ERR_F_BIT_ZERO = 0x1a,
        /// TTT not reserved where it must be; a warning by default.
        PROTOCOL_ERR_TTT_NOT_RSRV = 0x1b,
        /// Gap in DataSN.
        PROTOCOL_ERR_DATASN = 0x1c,
        /// Sequence longer than MaxBurstLength.
        PROTOCOL_ERR_REMAIN_BURST_LEN = 0x1d,
        /// Wrong buffer offset.
        PROTOCOL_ERR_BUFFER_OFF = 0x1f,
        /// LUN of R2T or Data-In differs; a warning by default.
        PROTOCOL_ERR_LUN = 0x20,
        /// Gap in R2TSN.
        PROTOCOL_ERR_R2TSN = 0x21,
        /// Desired data transfer length is zero.
        PROTOCOL_ERR_DESIRED_DATA_TRNS_LEN_0 = 0x22,
        /// Desired data transfer length goes beyond the command.
        PROTOCOL_ERR_DESIRED_DATA_TRNS_LEN_1 = 0x23,
        /// More R2Ts than MaxOutstandingR2T.
        PROTOCOL_ERR_PEND_R2T_EXCEED = 0x24,
        /// R2T with reserved TTT.
        PROTOCOL_ERR_TTT_IS_RSRV = 0x25,
        /// R2T longer than MaxBurstLength.
        PROTOCOL_ERR_MAX_BURST_LEN = 0x26,
        /// Payload where none may be.
        PROTOCOL_ERR_DATA_SEG_LEN_NOT_ZERO = 0x27,
        /// Reject payload does not fit an RQ buffer, or holds no header.
        PROTOCOL_ERR_REJECT_PDU_LEN = 0x28,
        /// Async payload too large.
        PROTOCOL_ERR_ASYNC_PDU_LEN = 0x29,
        /// NOP-In payload too large.
        PROTOCOL_ERR_NOPIN_PDU_LEN = 0x2a,
        /// Cleanup with an R2T pending.
        PROTOCOL_ERR_PEND_R2T_IN_CLEANUP = 0x2b,
        /// Data-In without data.
        PROTOCOL_ERR_DATA_SEG_LEN_IS_ZERO = 0x2c,
        /// Data segment of a response too large.
        PROTOCOL_ERR_DATA_SEG_LEN_TOO_BIG = 0x2d,
        /// IP fragment received.
        TCP_ERROR_IP_FRAGMENT = 0x40 => "ISCI_KCQE_COMPLETION_STATUS_TCP_ERROR_IP_FRAGMENT",
        /// IP options received.
        TCP_ERROR_IP_OPTIONS = 0x41 => "ISCI_KCQE_COMPLETION_STATUS_TCP_ERROR_IP_OPTIONS",
        /// Urgent flag received.
        TCP_ERROR_URGENT_FLAG = 0x42 => "ISCI_KCQE_COMPLETION_STATUS_TCP_ERROR_URGENT_FLAG",
        /// Retransmission limit reached.
        TCP_ERROR_MAX_RTRANS = 0x43 => "ISCI_KCQE_COMPLETION_STATUS_TCP_ERROR_MAX_RTRANS",
        /// No iSCSI licence; INIT only.
        ISCSI_NOT_SUPPORTED = 0x50,
        /// No LOM licence; INIT only.
        LOM_ISCSI_NOT_ENABLED = 0x51,
        /// Previous context not deleted yet; OFFLOAD only.
        CID_BUSY = 0x80,
        /// Chip in parity recovery.
        PARITY_ERR = 0x81,
    }
}

views!(Kcqe: IscsiKcqe);

impl Kcqe {
    /// Layer.
    pub const fn layer(&self) -> Layer {
        Layer((self.kcqe_op_flag.get() >> 28 & 7) as u8)
    }

    /// Opcode; its meaning depends on the layer.
    pub const fn opcode(&self) -> u8 {
        (self.kcqe_op_flag.get() >> 16) as u8
    }

    /// The next KCQE belongs to the same group and is consumed with this one.
    pub const fn next(&self) -> bool {
        self.kcqe_op_flag.get() & KCQE_FLAGS_NEXT != 0
    }

    /// Marks whether the next KCQE belongs to the same group.
    pub const fn set_next(&mut self, next: bool) {
        let word = self.kcqe_op_flag.get() & !KCQE_FLAGS_NEXT;
        self.kcqe_op_flag = U32::new(if next { word | KCQE_FLAGS_NEXT } else { word });
    }

    /// Sequence number, written by the chip.
    pub const fn qe_self_seq(&self) -> u16 {
        self.kcqe_op_flag.get() as u16
    }

    /// Sets the sequence number.
    pub const fn set_qe_self_seq(&mut self, seq: u16) {
        self.kcqe_op_flag = U32::new(self.kcqe_op_flag.get() & 0xffff_0000 | seq as u32);
    }
}

impl IscsiKcqe {
    /// Completion of layer 6 for a connection index of the host.
    pub fn new(op_code: IscsiKcqeOpcode, iscsi_conn_id: u32, status: CompletionStatus) -> Self {
        Self {
            iscsi_conn_id: U32::new(iscsi_conn_id),
            completion_status: U32::new(status.0),
            op_code,
            flags: Layer::ISCSI.0 << 4,
            ..Self::default()
        }
    }

    /// Completion status.
    pub const fn status(&self) -> CompletionStatus {
        CompletionStatus(self.completion_status.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;

    #[test]
    fn group_and_sequence_share_the_word_with_opcode_and_layer() {
        let kcqe = IscsiKcqe::new(IscsiKcqeOpcode::INIT, 0, CompletionStatus::ISCSI_NOT_SUPPORTED);
        assert_eq!(kcqe.status(), CompletionStatus::ISCSI_NOT_SUPPORTED);
        let mut element = kcqe.into_element();
        element.set_next(true);
        element.set_qe_self_seq(0x1234);
        assert_eq!(element.kcqe_op_flag.get(), 0xe014_1234);
        element.set_next(false);
        assert_eq!((element.next(), element.layer(), element.opcode()), (false, Layer::ISCSI, 0x14));
        assert_eq!(element.view::<IscsiKcqe>().op_code, IscsiKcqeOpcode::INIT);
    }
}
