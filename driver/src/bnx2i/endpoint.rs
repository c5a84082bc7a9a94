//! An endpoint: one offloaded connection from OFFLOAD_CONN to the answer of DESTROY_CONN.
//!
//! The real driver keeps one variable that several contexts overwrite; here the *phase* says what is being
//! waited for, and FIN, RST, TCP errors and logout are *latched* beside it, so that no event is lost and none
//! cancels a deadline (BNX2I-CNIC 11.1, 13.3 R1 and R2). An endpoint belongs to the adapter alone: it is torn
//! down without iscsid.

use core::net::{IpAddr, SocketAddr};

use bus::pci::Loan;

use super::{CidGuard, QueuePair};
use crate::cnic::PortGuard;
use crate::control::EpHandle;
use crate::error::Cause;

/// What the endpoint waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// The answer to OFFLOAD_CONN. There is no context id before it.
    Offloading,
    /// PATH_UPDATE.
    Resolving,
    /// The answer to OFFLOAD_PG.
    Grouping,
    /// CONNECT_COMPLETE.
    Connecting,
    /// iscsid: bind, login, START_CONN.
    Connected,
    /// The answer to UPDATE_CONN.
    Updating,
    /// Nothing: full feature phase.
    Full,
    /// CLOSE_COMP or RESET_COMP.
    Closing,
    /// The answers to UPLOAD_PG and DESTROY_CONN.
    Destroying,
    /// A chip reset: some answer never came, the card may still use the memory.
    Quarantined,
}

impl Phase {
    /// Whether a TCP connection may exist.
    pub(crate) fn has_tcp(self) -> bool {
        (Self::Connecting..=Self::Full).contains(&self)
    }

    /// Whether it has a path, or waits for one.
    pub(crate) fn has_path(self) -> bool {
        (Self::Resolving..=Self::Full).contains(&self)
    }

    /// Whether teardown has begun.
    pub(crate) fn is_going(self) -> bool {
        self >= Self::Closing
    }
}

/// The path group of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathGroup {
    /// None on the card.
    None,
    /// OFFLOAD_PG is not answered.
    Pending,
    /// On the card, with this id.
    Up(u32),
    /// UPLOAD_PG of this id is not answered.
    Uploading(u32),
}

/// Events that are kept until the endpoint is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Latched {
    /// The peer closed its direction.
    pub(crate) fin: bool,
    /// The peer reset the connection.
    pub(crate) rst: bool,
    /// TCP gave up, with this status.
    pub(crate) tcp_error: Option<u32>,
    /// The logout response arrived: close instead of reset.
    pub(crate) logged_out: bool,
}

impl Latched {
    /// Why the connection is of no use any more, if it is not.
    pub(crate) fn cause(self) -> Option<Cause> {
        match self {
            Self { rst: true, .. } => Some(Cause::Rst),
            Self { tcp_error: Some(status), .. } => Some(Cause::TcpError(status)),
            Self { fin: true, .. } => Some(Cause::Fin),
            _ => None,
        }
    }
}

/// One endpoint.
pub(crate) struct Endpoint {
    pub(crate) guard: CidGuard,
    pub(crate) tag: u64,
    pub(crate) portal: SocketAddr,
    pub(crate) phase: Phase,
    /// Teardown is wanted as soon as the phase allows.
    pub(crate) doomed: bool,
    /// KWQEs of the phase wait for room in the KWQ.
    pub(crate) unposted: bool,
    /// EP_CONNECT was answered.
    pub(crate) answered: bool,
    /// Why the connection failed, first cause.
    pub(crate) failed: Option<Cause>,
    pub(crate) latched: Latched,
    /// Context address, once the card gave one.
    pub(crate) context: Option<u32>,
    pub(crate) port: Option<PortGuard>,
    pub(crate) src: Option<IpAddr>,
    /// The neighbour, as the helper knows it.
    pub(crate) next_hop: [u8; 6],
    /// The neighbour, as the card was told.
    pub(crate) told_hop: [u8; 6],
    /// UPDATE_PG is not answered: the KWQ index behind it. One at a time: each has its own answer and its own
    /// deadline.
    pub(crate) telling_hop: Option<u16>,
    /// A new helper was asked to find the path that the connection has, and has not found it yet.
    pub(crate) path_unseen: bool,
    /// Tag control information of the path group; 0 for none.
    pub(crate) vlan: u16,
    /// Path MTU, bytes.
    pub(crate) pmtu: u16,
    pub(crate) group: PathGroup,
    /// DESTROY_CONN is not answered.
    pub(crate) destroying: bool,
    /// DESTROY_CONN was posted a second time, after the first was not answered.
    pub(crate) destroy_repeated: bool,
    /// The repetition was not answered either: the card was asked for the cid, to find out whether it has let
    /// go of it.
    pub(crate) asked_again: bool,
    /// DESTROY_CONN was answered with success: the rings are free, the path group may not be.
    pub(crate) destroyed: bool,
    /// Session slot.
    pub(crate) session: Option<u16>,
    pub(crate) qp: QueuePair,
    /// It stands in the list of connections with completions.
    pub(crate) notified: bool,
    /// SQ position of each task's WQE, and of its CLEANUP.
    pub(crate) positions: Vec<[u16; 2]>,
    /// Loans of user memory, by task. The vectors are reused.
    pub(crate) loans: Vec<Vec<Loan>>,
    /// Statuses that were reported as warnings already (64 bits, one each).
    pub(crate) warned: u64,
}

impl Endpoint {
    pub(crate) fn new(guard: CidGuard, tag: u64, portal: SocketAddr, qp: QueuePair) -> Self {
        let tasks = usize::from(qp.sizes().sq);
        Self {
            guard,
            tag,
            portal,
            phase: Phase::Offloading,
            doomed: false,
            unposted: false,
            answered: false,
            failed: None,
            latched: Latched::default(),
            context: None,
            port: None,
            src: None,
            next_hop: [0; 6],
            told_hop: [0; 6],
            telling_hop: None,
            path_unseen: false,
            vlan: 0,
            pmtu: 0,
            group: PathGroup::None,
            destroying: false,
            destroy_repeated: false,
            asked_again: false,
            destroyed: false,
            session: None,
            qp,
            notified: false,
            positions: vec![[0; 2]; tasks],
            loans: (0..tasks).map(|_| Vec::new()).collect(),
            warned: 0,
        }
    }

    pub(crate) fn handle(&self) -> EpHandle {
        EpHandle { cid: self.guard.cid(), generation: self.guard.generation() }
    }

    /// Whether asking once more can tell what the card still has of it.
    pub(crate) fn may_ask_again(&self) -> bool {
        let open = self.destroying || matches!(self.group, PathGroup::Uploading(_));
        open && self.group != PathGroup::Pending && !self.asked_again && !self.unposted
    }

    /// Whether it carries I/O.
    pub(crate) fn is_full(&self) -> bool {
        self.phase == Phase::Full && !self.doomed
    }
}
