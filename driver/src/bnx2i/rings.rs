//! The rings of one connection: SQ, CQ and RQ with their page tables, BD lists and login buffers, in one
//! allocation (BNX2I-CNIC 4.2 to 4.5, 5.5 to 5.7).
//!
//! No consumer index is exchanged. The driver knows that the chip has fetched an SQ entry when a completion
//! of it or of a later one arrived; the chip assumes that the CQ has room, so what is outstanding is limited
//! before it is posted. RQ buffers are used strictly in CQ order and given back in the same place.

use bus::actor::Cx;
use bus::mem::PAGE_SIZE;
use bus::pci::{Dir, DmaExhausted, Doorbell, Platform, Proof};
use hsi::bcm5709::doorbell as db;
use hsi::bcm5709::limits::{
    BD_BYTES, BNX2I_CQE_SIZE, BNX2I_RQ_WQE_SIZE, BNX2I_SQ_WQE_SIZE, ISCSI_MAX_BDS_PER_CMD, LOGIN_BUFFER_BYTES,
};
use hsi::bcm5709::pte::IscsiPte;
use hsi::iscsi::cq::{CqSequence, Cqe};
use hsi::iscsi::rq::RqProducer;
use hsi::iscsi::sq::Sqe;
use zerocopy::IntoBytes;

use crate::config::{CLEANUP_SLOTS, RingSizes};
use crate::mem::Lent;

/// Offset of the sequence number in a CQE.
const CQE_SN: usize = 60;

/// Where everything lies in the allocation.
#[derive(Clone, Copy, Debug)]
struct Layout {
    cq: usize,
    rq: usize,
    sq_table: usize,
    cq_table: usize,
    rq_table: usize,
    bds: usize,
    login_bds: usize,
    login_request: usize,
    login_response: usize,
    bytes: usize,
}

impl Layout {
    fn new(s: RingSizes) -> Self {
        let mut at = 0;
        let mut part = |bytes: usize| {
            let here = at;
            at += bytes.next_multiple_of(PAGE_SIZE);
            here
        };
        part(usize::from(s.sq) * BNX2I_SQ_WQE_SIZE);
        let cq = part(usize::from(s.cq) * BNX2I_CQE_SIZE);
        let rq = part(usize::from(s.rq) * BNX2I_RQ_WQE_SIZE);
        let (sq_table, cq_table, rq_table) = (part(1), part(1), part(1));
        let bds = part(usize::from(s.sq) * ISCSI_MAX_BDS_PER_CMD * BD_BYTES);
        let (login_bds, login_request, login_response) =
            (part(1), part(LOGIN_BUFFER_BYTES), part(LOGIN_BUFFER_BYTES));
        Self {
            cq,
            rq,
            sq_table,
            cq_table,
            rq_table,
            bds,
            login_bds,
            login_request,
            login_response,
            bytes: part(0),
        }
    }
}

/// What the CQ holds next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CqNext {
    /// Nothing.
    Empty,
    /// An entry was copied out; its slot is free again.
    Cqe,
    /// A sequence number that belongs neither to this lap nor to the last one: entries were lost (D4).
    Gap,
}

/// The rings of one connection.
#[must_use]
pub(crate) struct QueuePair {
    mem: Lent,
    at: Layout,
    sizes: RingSizes,
    sq_producer: u16,
    sq_fetched: u16,
    sq_rung: u16,
    outstanding: u16,
    cq: CqSequence,
    cq_first_lap: bool,
    rq: RqProducer,
    rq_slot: u16,
    rq_rung: RqProducer,
    doorbell: Option<Doorbell>,
}

impl QueuePair {
    /// Allocates and lends everything, and fills the page tables.
    pub(crate) fn new<P: Platform>(p: &mut P, sizes: RingSizes) -> Result<Self, DmaExhausted> {
        let at = Layout::new(sizes);
        let parts = [
            (0..at.cq, Dir::ToCard),
            (at.cq..at.sq_table, Dir::FromCard),
            (at.sq_table..at.login_response, Dir::ToCard),
            (at.login_response..at.bytes, Dir::FromCard),
        ];
        let mem = Lent::new(p, at.bytes, "connection", &parts)?;
        let table = |table: usize, from: usize, to: usize| {
            for (i, page) in (from..to).step_by(PAGE_SIZE).enumerate() {
                let pte = IscsiPte::new(mem.addr(page));
                mem.buf().write(table + i * size_of::<IscsiPte>(), pte.as_bytes());
            }
        };
        table(at.sq_table, 0, at.cq);
        table(at.cq_table, at.cq, at.rq);
        table(at.rq_table, at.rq, at.sq_table);
        Ok(Self {
            mem,
            at,
            sizes,
            sq_producer: 0,
            sq_fetched: 0,
            sq_rung: 0,
            outstanding: 0,
            cq: CqSequence::new(sizes.cq),
            cq_first_lap: true,
            rq: RqProducer::INITIAL,
            rq_slot: 0,
            rq_rung: RqProducer::INITIAL,
            doorbell: None,
        })
    }

    pub(crate) fn release<P: Platform>(self, p: &mut P, proof: Proof) {
        self.mem.release(p, proof);
    }

    pub(crate) fn loans(&self) -> u32 {
        self.mem.loans()
    }

    /// Bus addresses of the SQ, CQ and RQ page tables, and their first entries.
    pub(crate) fn tables(&self) -> [(u64, IscsiPte); 3] {
        let first = |page| IscsiPte::new(self.mem.addr(page));
        [
            (self.mem.addr(self.at.sq_table), first(0)),
            (self.mem.addr(self.at.cq_table), first(self.at.cq)),
            (self.mem.addr(self.at.rq_table), first(self.at.rq)),
        ]
    }

    pub(crate) fn sizes(&self) -> RingSizes {
        self.sizes
    }

    /// Maps the doorbell, now that the context id is known.
    pub(crate) fn map<P: Platform>(&mut self, p: &mut P, context: u32, mq_config2: u32) {
        let at = db::connection(hsi::bcm5709::ctx::cid(context), mq_config2);
        self.doorbell = Some(p.map_doorbell(crate::l2::BAR0, u64::from(at)));
    }

    /// Whether one more WQE fits: the SQ slot was fetched, and its completion has a CQ slot besides those
    /// that outstanding requests and RQ buffers may take. `reserve` SQ slots and completions are kept for
    /// others.
    pub(crate) fn room(&self, reserve: u16) -> bool {
        let used = self.sq_producer.wrapping_sub(self.sq_fetched);
        used + reserve < self.sizes.sq && self.outstanding + reserve < self.sizes.cq - self.sizes.rq
    }

    /// Room for a command: cleanup slots are kept free (D10).
    pub(crate) fn room_for_command(&self) -> bool {
        self.room(CLEANUP_SLOTS)
    }

    /// Writes a WQE; [`QueuePair::ring`] tells the chip. Returns its position, for [`QueuePair::completed`].
    pub(crate) fn post(&mut self, wqe: &Sqe) -> u16 {
        debug_assert!(self.room(0), "room is checked before a WQE is built");
        let position = self.sq_producer;
        let slot = usize::from(position % self.sizes.sq);
        self.mem.buf().write(slot * BNX2I_SQ_WQE_SIZE, &wqe.sqe_byte);
        self.sq_producer = position.wrapping_add(1);
        self.outstanding += 1;
        position
    }

    /// A completion of the WQE at `position` arrived: it and all before it were fetched.
    pub(crate) fn completed(&mut self, position: u16) {
        self.outstanding = self.outstanding.saturating_sub(1);
        let ahead = position.wrapping_add(1).wrapping_sub(self.sq_fetched);
        if ahead <= self.sq_producer.wrapping_sub(self.sq_fetched) {
            self.sq_fetched = position.wrapping_add(1);
        }
    }

    /// Rings the doorbells of what was posted and given back since the last call.
    pub(crate) fn ring<P: Platform>(&mut self, p: &mut P, cx: &mut Cx<'_>) {
        let Some(bell) = self.doorbell else { return };
        if self.rq_rung != self.rq {
            p.doorbell(cx, bell, u64::from(db::CNIC_RECV_DOORBELL), self.rq.0);
            self.rq_rung = self.rq;
        }
        if self.sq_rung != self.sq_producer {
            p.doorbell(cx, bell, u64::from(db::CNIC_SEND_DOORBELL), self.sq_producer);
            self.sq_rung = self.sq_producer;
        }
    }

    /// Takes the next completion. The sequence number is read first, with acquire, and written last by the
    /// chip.
    pub(crate) fn next(&mut self, out: &mut Cqe) -> CqNext {
        let at = self.at.cq + usize::from(self.cq.slot()) * BNX2I_CQE_SIZE;
        let (sn, expected, size) =
            (self.mem.buf().load32(at + CQE_SN), self.cq.sn(), u32::from(self.sizes.cq));
        if sn != expected {
            let last_lap = if expected > size { expected - size } else { expected + size };
            let stale = if self.cq_first_lap { sn == 0 } else { sn == last_lap };
            return if stale { CqNext::Empty } else { CqNext::Gap };
        }
        self.mem.buf().read(at, &mut out.cqe_byte);
        if expected == size {
            self.cq_first_lap = false;
        }
        self.cq.advance();
        CqNext::Cqe
    }

    /// Whether an entry waits (or a gap shows).
    pub(crate) fn has_completion(&self) -> bool {
        let at = self.at.cq + usize::from(self.cq.slot()) * BNX2I_CQE_SIZE;
        self.mem.buf().load32(at + CQE_SN) == self.cq.sn()
    }

    /// Copies the next RQ buffer, up to `out.len()` bytes, and gives it back to the chip.
    pub(crate) fn take_rq(&mut self, out: &mut [u8]) {
        let n = out.len().min(BNX2I_RQ_WQE_SIZE);
        let at = self.at.rq + usize::from(self.rq_slot) * BNX2I_RQ_WQE_SIZE;
        self.mem.buf().read(at, &mut out[..n]);
        self.rq_slot = (self.rq_slot + 1) % self.sizes.rq;
        self.rq = self.rq.advance(1, self.sizes.rq);
    }

    /// Bus address of the BD list of a task.
    pub(crate) fn bd_list(&self, task: u16) -> u64 {
        self.mem.addr(self.bd_at(task))
    }

    fn bd_at(&self, task: u16) -> usize {
        self.at.bds + usize::from(task % self.sizes.sq) * ISCSI_MAX_BDS_PER_CMD * BD_BYTES
    }

    /// Writes the BD list of a task.
    pub(crate) fn write_bds(&self, task: u16, bds: &[hsi::iscsi::bd::IscsiBd]) {
        self.mem.buf().write(self.bd_at(task), bds.as_bytes());
    }

    /// Puts a login or text payload into the request buffer; returns the bus addresses of the request and
    /// response BD lists.
    pub(crate) fn stage_login(&mut self, data: &[u8]) -> (u64, u64) {
        let data = &data[..data.len().min(LOGIN_BUFFER_BYTES)];
        self.mem.buf().write(self.at.login_request, data);
        let one = |addr, len| {
            let mut bd = hsi::iscsi::bd::IscsiBd::new(addr, len);
            bd.flags
                .set(hsi::iscsi::bd::ISCSI_BD_FIRST_IN_BD_CHAIN | hsi::iscsi::bd::ISCSI_BD_LAST_IN_BD_CHAIN);
            bd
        };
        let bds = [
            one(self.mem.addr(self.at.login_request), data.len().max(1) as u16),
            one(self.mem.addr(self.at.login_response), LOGIN_BUFFER_BYTES as u16),
        ];
        self.mem.buf().write(self.at.login_bds, bds.as_bytes());
        let list = self.mem.addr(self.at.login_bds);
        (list, list + BD_BYTES as u64)
    }

    /// The first `len` bytes of the response buffer; `None` when that is more than it has (D1).
    pub(crate) fn login_response(&self, len: u32) -> Option<Vec<u8>> {
        let len = usize::try_from(len).ok().filter(|l| *l <= LOGIN_BUFFER_BYTES)?;
        let mut data = vec![0; len];
        self.mem.buf().read(self.at.login_response, &mut data);
        Some(data)
    }
}
