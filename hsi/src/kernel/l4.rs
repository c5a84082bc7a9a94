//! Layer 4 of the kernel queues: path groups and TCP connections (BNX2I-CNIC 3.5 to 3.8, A.5).
//!
//! KWQEs go from host to chip, KCQEs back. MAC addresses are reversed inside each word; addresses and ports
//! are in CPU order. Beware: KWQE 53 is RESET and 54 CLOSE, but KCQE 53 is CLOSE_COMP and 54 RESET_COMP.

use crate::facts::{blank, byte_enum, facts, open_enum, views, wire};
use crate::kernel::kcq::Kcqe;
use crate::kernel::kwq::{Kwqe, Layer};
use crate::{U16, U32};

wire! {
    /// Creates a path group: the Ethernet header towards a next hop (BNX2I-CNIC 3.6).
    pub struct L4KwqOffloadPg = "l4_kwq_offload_pg" [32] {
        reserved0: U16,
        /// Opcode.
        pub op_code: L4KwqeOpcode,
        /// Flags.
        pub flags: u8,
        /// Destination MAC byte 1.
        pub da1: u8,
        /// Destination MAC byte 0.
        pub da0: u8,
        /// Path-group flags.
        pub pg_flags: u8,
        /// Bytes of the Ethernet header: 14, or 18 with VLAN.
        pub l2hdr_nbytes: u8,
        /// Destination MAC byte 5.
        pub da5: u8,
        /// Destination MAC byte 4.
        pub da4: u8,
        /// Destination MAC byte 3.
        pub da3: u8,
        /// Destination MAC byte 2.
        pub da2: u8,
        /// Source MAC byte 3.
        pub sa3: u8,
        /// Source MAC byte 2.
        pub sa2: u8,
        /// Source MAC byte 1.
        pub sa1: u8,
        /// Source MAC byte 0.
        pub sa0: u8,
        /// Ethertype.
        pub etype: U16,
        /// Source MAC byte 5.
        pub sa5: u8,
        /// Source MAC byte 4.
        pub sa4: u8,
        /// First IP id.
        pub ipid_start: U16,
        /// VLAN tag.
        pub vlan_tag: U16,
        reserved3: U16,
        /// Number of IP ids.
        pub ipid_count: U16,
        /// Opaque, echoed in the completion: the connection index of the host.
        pub host_opaque: U32,
    }

    /// New next hop of a path group (BNX2I-CNIC 3.6).
    pub struct L4KwqUpdatePg = "l4_kwq_update_pg" [32] {
        /// Small operand.
        pub oper16: U16,
        /// Opcode.
        pub opcode: L4KwqeOpcode,
        /// Flags.
        pub flags: u8,
        /// Path-group id.
        pub pg_cid: U32,
        /// Opaque of the path group: the connection index of the host.
        pub pg_host_opaque: U32,
        /// IP ids used.
        pub pg_ipid_count: U16,
        pg_unused_a: u8,
        /// Which of the fields are valid.
        pub pg_valids: u8,
        /// Destination MAC byte 1.
        pub da1: u8,
        /// Destination MAC byte 0.
        pub da0: u8,
        reserved3: U16,
        /// Destination MAC byte 5.
        pub da5: u8,
        /// Destination MAC byte 4.
        pub da4: u8,
        /// Destination MAC byte 3.
        pub da3: u8,
        /// Destination MAC byte 2.
        pub da2: u8,
        reserved4: U32,
        reserved5: U32,
    }

    /// Frees a path group; `cid` is its id (BNX2I-CNIC 3.6).
    pub struct L4KwqUpload = "l4_kwq_upload" [32] {
        /// Small operand.
        pub oper16: U16,
        /// Opcode.
        pub opcode: L4KwqeOpcode,
        /// Flags.
        pub flags: u8,
        /// Connection id.
        pub cid: U32,
        reserved2: [U32; 6],
    }

    /// Connect: addresses and ports (BNX2I-CNIC 3.6). Linked with the next.
    pub struct L4KwqConnectReq1 = "l4_kwq_connect_req1" [32] {
        /// Connection flags.
        pub conn_flags: u8,
        reserved0: u8,
        /// Opcode.
        pub op_code: L4KwqeOpcode,
        /// Flags.
        pub flags: u8,
        /// Connection id.
        pub cid: U32,
        /// Path-group id.
        pub pg_cid: U32,
        /// Source address; first 32 bits, CPU order.
        pub src_ip: U32,
        /// Destination address; first 32 bits, CPU order.
        pub dst_ip: U32,
        /// Source port, CPU order.
        pub src_port: U16,
        /// Destination port, CPU order.
        pub dst_port: U16,
        /// TCP options.
        pub tcp_flags: u8,
        rsrv1: [u8; 3],
        rsrv2: U32,
    }

    /// Connect: the rest of IPv6 addresses (BNX2I-CNIC 3.6). Linked with the next.
    pub struct L4KwqConnectReq2 = "l4_kwq_connect_req2" [32] {
        rsrv: u8,
        reserved0: u8,
        /// Opcode.
        pub op_code: L4KwqeOpcode,
        /// Flags.
        pub flags: u8,
        reserved2: U32,
        /// Source address, word 2 of 4, CPU order.
        pub src_ip_v6_2: U32,
        /// Source address, word 3 of 4, CPU order.
        pub src_ip_v6_3: U32,
        /// Source address, word 4 of 4, CPU order.
        pub src_ip_v6_4: U32,
        /// Destination address, word 2 of 4, CPU order.
        pub dst_ip_v6_2: U32,
        /// Destination address, word 3 of 4, CPU order.
        pub dst_ip_v6_3: U32,
        /// Destination address, word 4 of 4, CPU order.
        pub dst_ip_v6_4: U32,
    }

    /// Connect: TCP parameters (BNX2I-CNIC 3.6).
    pub struct L4KwqConnectReq3 = "l4_kwq_connect_req3" [32] {
        reserved0: U16,
        /// Opcode.
        pub op_code: L4KwqeOpcode,
        /// Flags.
        pub flags: u8,
        /// Keepalive timeout, ms assumed.
        pub ka_timeout: U32,
        /// Keepalive interval, ms assumed.
        pub ka_interval: U32,
        /// Keepalive probes.
        pub ka_max_probe_count: u8,
        /// IP type of service.
        pub tos: u8,
        /// IP time to live.
        pub ttl: u8,
        /// Send sequence scale.
        pub snd_seq_scale: u8,
        /// MSS: path MTU less headers.
        pub mss: U16,
        /// Path MTU.
        pub pmtu: U16,
        /// Receive buffer, bytes.
        pub rcv_buf: U32,
        /// Send buffer, bytes.
        pub snd_buf: U32,
        /// Seed; 0.
        pub seed: U32,
    }

    /// Orderly close (BNX2I-CNIC 3.8).
    pub struct L4KwqCloseReq = "l4_kwq_close_req" [32] {
        reserved0: U16,
        /// Opcode.
        pub op_code: L4KwqeOpcode,
        /// Flags.
        pub flags: u8,
        /// Connection id.
        pub cid: U32,
        reserved2: [U32; 6],
    }

    /// Abortive close (BNX2I-CNIC 3.8).
    pub struct L4KwqResetReq = "l4_kwq_reset_req" [32] {
        reserved0: U16,
        /// Opcode.
        pub op_code: L4KwqeOpcode,
        /// Flags.
        pub flags: u8,
        /// Connection id.
        pub cid: U32,
        reserved2: [U32; 6],
    }

    /// Completion or event of the TCP layer (BNX2I-CNIC A.5).
    pub struct L4Kcq = "l4_kcq" [32] {
        /// Connection id.
        pub cid: U32,
        /// Path-group id.
        pub pg_cid: U32,
        /// Connection index of the host.
        pub conn_id: U32,
        /// Opaque of the path group: the connection index of the host.
        pub pg_host_opaque: U32,
        reserved1: U16,
        /// Status.
        pub status: U16,
        reserved2: [U32; 2],
        /// Sequence number, written by the chip.
        pub qe_self_seq: U16,
        /// Opcode.
        pub op_code: L4KcqeOpcode,
        /// Flags.
        pub flags: u8,
    }

    /// Completion of an upload (BNX2I-CNIC A.5).
    pub struct L4KcqUploadPg = "l4_kcq_upload_pg" [32] {
        /// Path-group id.
        pub pg_cid: U32,
        /// IP ids used.
        pub pg_ipid_count: U16,
        /// Status of the upload.
        pub pg_status: U16,
        reserved1: [U32; 5],
        /// Sequence number, written by the chip.
        pub qe_self_seq: U16,
        /// Opcode.
        pub op_code: L4KcqeOpcode,
        /// Flags.
        pub flags: u8,
    }
}

facts! {
    prefix "";
    Bits("l4_kwq_offload_pg", "flags"): u8 {
        L4_KWQ_OFFLOAD_PG_RESERVED1 = 0xf,
        L4_KWQ_OFFLOAD_PG_LAYER_CODE = 0x70,
        L4_KWQ_OFFLOAD_PG_LINKED_WITH_NEXT = 0x80,
    }
    Bits("l4_kwq_offload_pg", "pg_flags"): u8 {
        L4_KWQ_OFFLOAD_PG_SNAP_ENCAP = 0x1,
        L4_KWQ_OFFLOAD_PG_VLAN_TAGGING = 0x2,
        L4_KWQ_OFFLOAD_PG_RESERVED2 = 0xfc,
    }
    Bits("l4_kwq_update_pg", "flags"): u8 {
        L4_KWQ_UPDATE_PG_RESERVED1 = 0xf,
        L4_KWQ_UPDATE_PG_LAYER_CODE = 0x70,
        L4_KWQ_UPDATE_PG_LINKED_WITH_NEXT = 0x80,
    }
    Bits("l4_kwq_update_pg", "pg_valids"): u8 {
        L4_KWQ_UPDATE_PG_VALIDS_IPID_COUNT = 0x1,
        L4_KWQ_UPDATE_PG_VALIDS_DA = 0x2,
        L4_KWQ_UPDATE_PG_RESERVERD2 = 0xfc,
    }
    Bits("l4_kwq_upload", "flags"): u8 {
        L4_KWQ_UPLOAD_RESERVED1 = 0xf,
        L4_KWQ_UPLOAD_LAYER_CODE = 0x70,
        L4_KWQ_UPLOAD_LINKED_WITH_NEXT = 0x80,
    }
    Bits("l4_kwq_connect_req1", "conn_flags"): u8 {
        L4_KWQ_CONNECT_REQ1_IS_PG_HOST_OPAQUE = 0x1,
        L4_KWQ_CONNECT_REQ1_IP_V6 = 0x2,
        L4_KWQ_CONNECT_REQ1_PASSIVE_FLAG = 0x4,
        L4_KWQ_CONNECT_REQ1_RSRV = 0xf8,
    }
    Bits("l4_kwq_connect_req1", "flags"): u8 {
        L4_KWQ_CONNECT_REQ1_RESERVED1 = 0xf,
        L4_KWQ_CONNECT_REQ1_LAYER_CODE = 0x70,
        L4_KWQ_CONNECT_REQ1_LINKED_WITH_NEXT = 0x80,
    }
    Bits("l4_kwq_connect_req1", "tcp_flags"): u8 {
        L4_KWQ_CONNECT_REQ1_NO_DELAY_ACK = 0x1,
        L4_KWQ_CONNECT_REQ1_KEEP_ALIVE = 0x2,
        L4_KWQ_CONNECT_REQ1_NAGLE_ENABLE = 0x4,
        L4_KWQ_CONNECT_REQ1_TIME_STAMP = 0x8,
        L4_KWQ_CONNECT_REQ1_SACK = 0x10,
        L4_KWQ_CONNECT_REQ1_SEG_SCALING = 0x20,
        L4_KWQ_CONNECT_REQ1_RESERVED2 = 0xc0,
    }
    Bits("l4_kwq_connect_req2", "flags"): u8 {
        L4_KWQ_CONNECT_REQ2_RESERVED1 = 0xf,
        L4_KWQ_CONNECT_REQ2_LAYER_CODE = 0x70,
        L4_KWQ_CONNECT_REQ2_LINKED_WITH_NEXT = 0x80,
    }
    Bits("l4_kwq_connect_req3", "flags"): u8 {
        L4_KWQ_CONNECT_REQ3_RESERVED1 = 0xf,
        L4_KWQ_CONNECT_REQ3_LAYER_CODE = 0x70,
        L4_KWQ_CONNECT_REQ3_LINKED_WITH_NEXT = 0x80,
    }
    Bits("l4_kwq_close_req", "flags"): u8 {
        L4_KWQ_CLOSE_REQ_RESERVED1 = 0xf,
        L4_KWQ_CLOSE_REQ_LAYER_CODE = 0x70,
        L4_KWQ_CLOSE_REQ_LINKED_WITH_NEXT = 0x80,
    }
    Bits("l4_kwq_reset_req", "flags"): u8 {
        L4_KWQ_RESET_REQ_RESERVED1 = 0xf,
        L4_KWQ_RESET_REQ_LAYER_CODE = 0x70,
        L4_KWQ_RESET_REQ_LINKED_WITH_NEXT = 0x80,
    }
    Bits("l4_kcq", "flags"): u8 {
        L4_KCQ_RESERVED3 = 0xf,
        L4_KCQ_RAMROD_COMPLETION = 0x8,
        L4_KCQ_LAYER_CODE = 0x70,
        L4_KCQ_RESERVED4 = 0x80,
    }
    Bits("l4_kcq_upload_pg", "flags"): u8 {
        L4_KCQ_UPLOAD_PG_RESERVED3 = 0xf,
        L4_KCQ_UPLOAD_PG_LAYER_CODE = 0x70,
        L4_KCQ_UPLOAD_PG_RESERVED4 = 0x80,
    }
}

byte_enum! {
    /// Opcode of a layer 4 KWQE (BNX2I-CNIC 0.4).
    pub struct L4KwqeOpcode(u8), prefix "L4_KWQE_OPCODE_VALUE_" {
        /// [`L4KwqOffloadPg`].
        OFFLOAD_PG = 1,
        /// [`L4KwqUpdatePg`].
        UPDATE_PG = 9,
        /// [`L4KwqUpload`].
        UPLOAD_PG = 14,
        /// [`L4KwqConnectReq1`].
        CONNECT1 = 50,
        /// [`L4KwqConnectReq2`].
        CONNECT2 = 51,
        /// [`L4KwqConnectReq3`].
        CONNECT3 = 52,
        /// [`L4KwqResetReq`].
        RESET = 53,
        /// [`L4KwqCloseReq`].
        CLOSE = 54,
        /// Never sent.
        UPDATE_SECRET = 60,
        /// Never sent.
        INIT_ULP = 61,
    }
}

byte_enum! {
    /// Opcode of a layer 4 KCQE (BNX2I-CNIC 0.4).
    pub struct L4KcqeOpcode(u8), prefix "L4_KCQE_OPCODE_VALUE_" {
        /// Path group created.
        OFFLOAD_PG = 1,
        /// Path group updated.
        UPDATE_PG = 9,
        /// Path group freed; [`L4KcqUploadPg`].
        UPLOAD_PG = 14,
        /// Orderly close done.
        CLOSE_COMP = 53,
        /// Abortive close done.
        RESET_COMP = 54,
        /// TCP state update of firmware.
        FW_TCP_UPDATE = 55,
        /// Connect done, or failed.
        CONNECT_COMPLETE = 56,
        /// The peer reset the connection.
        RESET_RECEIVED = 57,
        /// The peer closed its direction.
        CLOSE_RECEIVED = 58,
        /// Answer to INIT_ULP.
        INIT_ULP = 61,
        /// Out-of-order event; not on the 5709.
        OOO_EVENT_NOTIFICATION = 0xa0,
        /// Out-of-order flush; not on the 5709.
        OOO_FLUSH = 0xa1,
    }
}

open_enum! {
    /// Status of a layer 4 KCQE (BNX2I-CNIC 0.4).
    pub struct L4Status(u16), prefix "L4_KCQE_COMPLETION_STATUS_" {
        /// Success.
        SUCCESS = 0x00,
        /// Internal error.
        NIC_ERROR = 0x04,
        /// Parity error.
        PARITY_ERROR = 0x81,
        /// No context.
        CTX_ALLOC_FAIL = 0x83,
        /// Path group still in use.
        OFFLOADED_PG = 0x89,
        /// Timed out.
        TIMEOUT = 0x93,
    }
}

views! {
    Kwqe: L4KwqOffloadPg, L4KwqUpdatePg, L4KwqUpload, L4KwqConnectReq1, L4KwqConnectReq2, L4KwqConnectReq3,
    L4KwqCloseReq, L4KwqResetReq,
}

views!(Kcqe: L4Kcq, L4KcqUploadPg);

/// `flags` of a layer 4 element.
pub const L4_FLAGS: u8 = Layer::L4.0 << 4;

/// `flags` of a layer 4 KWQE whose next one belongs to it.
pub const L4_FLAGS_LINKED: u8 = L4_FLAGS | L4_KWQ_CONNECT_REQ1_LINKED_WITH_NEXT;

blank! {
    L4KwqOffloadPg { op_code = L4KwqeOpcode::OFFLOAD_PG, flags = L4_FLAGS }
    L4KwqUpdatePg { opcode = L4KwqeOpcode::UPDATE_PG, flags = L4_FLAGS }
    L4KwqUpload { opcode = L4KwqeOpcode::UPLOAD_PG, flags = L4_FLAGS }
    L4KwqConnectReq1 { op_code = L4KwqeOpcode::CONNECT1, flags = L4_FLAGS_LINKED }
    L4KwqConnectReq2 { op_code = L4KwqeOpcode::CONNECT2, flags = L4_FLAGS_LINKED }
    L4KwqConnectReq3 { op_code = L4KwqeOpcode::CONNECT3, flags = L4_FLAGS }
    L4KwqCloseReq { op_code = L4KwqeOpcode::CLOSE, flags = L4_FLAGS }
    L4KwqResetReq { op_code = L4KwqeOpcode::RESET, flags = L4_FLAGS }
    L4KcqUploadPg { op_code = L4KcqeOpcode::UPLOAD_PG, flags = L4_FLAGS }
}

impl L4KwqOffloadPg {
    /// Destination MAC.
    pub const fn da(&self) -> [u8; 6] {
        [self.da0, self.da1, self.da2, self.da3, self.da4, self.da5]
    }

    /// Sets the destination MAC.
    pub const fn set_da(&mut self, mac: [u8; 6]) {
        [self.da0, self.da1, self.da2, self.da3, self.da4, self.da5] = mac;
    }

    /// Source MAC.
    pub const fn sa(&self) -> [u8; 6] {
        [self.sa0, self.sa1, self.sa2, self.sa3, self.sa4, self.sa5]
    }

    /// Sets the source MAC.
    pub const fn set_sa(&mut self, mac: [u8; 6]) {
        [self.sa0, self.sa1, self.sa2, self.sa3, self.sa4, self.sa5] = mac;
    }

    /// The VLAN tag, if the path group has one.
    pub const fn vlan(&self) -> Option<u16> {
        if self.pg_flags & L4_KWQ_OFFLOAD_PG_VLAN_TAGGING != 0 { Some(self.vlan_tag.get()) } else { None }
    }
}

impl L4KwqUpdatePg {
    /// New destination MAC, if `pg_valids` says so.
    pub const fn da(&self) -> Option<[u8; 6]> {
        if self.pg_valids & L4_KWQ_UPDATE_PG_VALIDS_DA == 0 {
            return None;
        }
        Some([self.da0, self.da1, self.da2, self.da3, self.da4, self.da5])
    }

    /// Sets the destination MAC and marks it valid.
    pub const fn set_da(&mut self, mac: [u8; 6]) {
        [self.da0, self.da1, self.da2, self.da3, self.da4, self.da5] = mac;
        self.pg_valids |= L4_KWQ_UPDATE_PG_VALIDS_DA;
    }
}

impl L4KwqConnectReq1 {
    /// IPv6: a second KWQE carries the rest of the addresses.
    pub const fn is_ipv6(&self) -> bool {
        self.conn_flags & L4_KWQ_CONNECT_REQ1_IP_V6 != 0
    }
}

impl L4Kcq {
    /// Completion or event of layer 4.
    pub fn new(op_code: L4KcqeOpcode, status: L4Status) -> Self {
        Self { op_code, status: U16::new(status.0), flags: L4_FLAGS, ..Self::default() }
    }

    /// Status.
    pub const fn completion_status(&self) -> L4Status {
        L4Status(self.status.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;

    /// BNX2I-CNIC B.6: word 0 of CONNECT1 for IPv4.
    #[test]
    fn connect1_common_word() {
        let element = L4KwqConnectReq1::blank().into_element();
        assert_eq!(element.kwqe_op_flag.get(), 0xc032_0000);
        assert!(element.linked_with_next());
        assert_eq!(element.layer(), Layer::L4);
    }

    /// BNX2I-CNIC A.5: MAC bytes are reversed inside each word.
    #[test]
    fn mac_bytes_are_reversed_in_words() {
        let mut pg = L4KwqOffloadPg::default();
        pg.set_da([0, 1, 2, 3, 4, 5]);
        pg.set_sa([16, 17, 18, 19, 20, 21]);
        let bytes = pg.bytes();
        assert_eq!((bytes[4], bytes[5], &bytes[8..12]), (1, 0, &[5, 4, 3, 2][..]));
        assert_eq!((&bytes[12..16], &bytes[18..20]), (&[19, 18, 17, 16][..], &[21, 20][..]));
        assert_eq!((pg.da(), pg.sa()), ([0, 1, 2, 3, 4, 5], [16, 17, 18, 19, 20, 21]));
    }
}
