//! The chip-independent offload engine: iSCSI connections, tasks, data placement, checks.

use std::collections::VecDeque;

use crate::tcp::TcpId;

/// What INIT1 and INIT2 program (BNX2I-CNIC 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitParams {
    /// SQ entries per connection.
    pub sq_wqes: u16,
    /// CQ entries per connection.
    pub cq_cqes: u16,
    /// RQ buffers per connection.
    pub rq_buffers: u16,
    /// Bytes of an RQ buffer.
    pub rq_buffer_size: u16,
    /// Tasks per connection (the ITT index space).
    pub tasks: u16,
    /// Host page size in bytes.
    pub page_size: u32,
    /// Exclusive upper bound of the CQ sequence number.
    pub max_cq_sqn: u16,
    /// Completion statuses that are warnings (bit set) instead of errors; statuses from 64 on are errors.
    pub warning_mask: u64,
}

/// Where a connection's rings are: G1 page tables, high word first (BNX2I-CNIC 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingTables {
    /// Bus address of the SQ page table.
    pub sq: u64,
    /// Bus address of the CQ page table.
    pub cq: u64,
    /// Bus address of the RQ page table.
    pub rq: u64,
}

/// What UPDATE_CONN programs (BNX2I-CNIC 4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateParams {
    /// Header digest on.
    pub header_digest: bool,
    /// Data digest on.
    pub data_digest: bool,
    /// InitialR2T.
    pub initial_r2t: bool,
    /// ImmediateData.
    pub immediate_data: bool,
    /// MaxOutstandingR2T.
    pub max_outstanding_r2ts: u8,
    /// The target's MaxRecvDataSegmentLength, bytes.
    pub max_send_pdu: u32,
    /// Our MaxRecvDataSegmentLength, bytes.
    pub max_recv_pdu: u32,
    /// FirstBurstLength, bytes.
    pub first_burst: u32,
    /// MaxBurstLength, bytes.
    pub max_burst: u32,
    /// ExpStatSN of the first full-feature PDU.
    pub exp_stat_sn: u32,
}

/// What the engine tells the front end, which turns it into KCQEs (BNX2I-CNIC 0.4, 11.3). In order per connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// CONNECT ended: completion status (0 or an L4 status such as 0x93).
    ConnectComplete(TcpId, u16),
    /// UPDATE_CONN was applied (0) or refused.
    UpdateComplete(TcpId, u32),
    /// CLOSE ended.
    CloseComplete(TcpId),
    /// RESET ended.
    ResetComplete(TcpId),
    /// The peer sent FIN.
    CloseReceived(TcpId),
    /// The peer sent RST.
    ResetReceived(TcpId),
    /// DESTROY ended with this completion status; on 0 the card will not touch the rings again.
    DestroyComplete(TcpId, u32),
    /// CQEs are waiting.
    CqEvent(TcpId),
    /// A protocol violation or digest error: completion status of BNX2I-CNIC 6.2.
    IscsiError(TcpId, u32),
    /// The transport gave up: completion status (0x43 after the retransmission limit).
    TcpError(TcpId, u32),
}

/// Events waiting for the front end.
pub type EngineEvents = VecDeque<EngineEvent>;
