//! A host that does what a driver does, and a transport that answers as it is told.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use bus::inproc::{CardActor, InProcess, Slot, SlotConfig, Timing};
use bus::mem::DmaBuf;
use bus::pci::{Bar, DevCx, Dir, Epoch, Loan, Platform, ResetKind, Revoked, VectorSet, Width};
use bus::streams::Seeded;
use bus::trace::Trace;
use bus::wake::WakeSet;
use bus::{Actor, ActorId, Budget, Cx, Instant, Progress};
use hsi::bcm5709::pte::IscsiPte;
use hsi::bcm5709::{ctx, doorbell, regs, shmem};
use hsi::kernel::kcq::{IscsiKcqe, Kcqe};
use hsi::kernel::kwq::{IscsiKwqeConnOffload1, IscsiKwqeConnOffload2, IscsiKwqeInit1, IscsiKwqeInit2, Kwqe};
use hsi::kernel::l4::{L4Kcq, L4KwqConnectReq1, L4KwqConnectReq3, L4KwqOffloadPg};
use hsi::{U16, U32, View};

use super::nic::Cable;
use crate::bcm5709::{Bcm5709, Card};
use crate::config::ChipConfig;
use crate::fault::Faults;
use crate::tcp::{ConnectError, ConnectRequest, LinkHeader, TcpEngine, TcpEvent, TcpId};

pub(super) const BAR: Bar = Bar(0);
const PAGE: usize = 4096;

/// How the wire treats a CONNECT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Peer {
    #[default]
    Accepts,
    Refuses,
    Silent,
}

/// What the wire has seen, and what it will say next.
#[derive(Default)]
pub(super) struct WireState {
    pub(super) peer: Peer,
    pub(super) events: Vec<(TcpId, TcpEvent)>,
    pub(super) requests: Vec<(TcpId, ConnectRequest)>,
    pub(super) aborts: Vec<TcpId>,
    pub(super) links: Vec<(TcpId, LinkHeader)>,
    pub(super) resets: u32,
}

/// A transport without a network.
#[derive(Clone, Default)]
pub(super) struct Wire(pub(super) Rc<RefCell<WireState>>);

impl TcpEngine for Wire {
    fn connect(&mut self, _: &mut DevCx<'_>, id: TcpId, request: &ConnectRequest) {
        let mut w = self.0.borrow_mut();
        w.requests.push((id, request.clone()));
        match w.peer {
            Peer::Accepts => w.events.push((id, TcpEvent::Connected)),
            Peer::Refuses => w.events.push((id, TcpEvent::ConnectFailed(ConnectError::Refused))),
            Peer::Silent => {}
        }
    }

    fn close(&mut self, _: &mut DevCx<'_>, id: TcpId) {
        self.0.borrow_mut().events.push((id, TcpEvent::Closed));
    }

    fn abort(&mut self, _: &mut DevCx<'_>, id: TcpId) {
        self.0.borrow_mut().aborts.push(id);
    }

    fn send(&mut self, _: &mut DevCx<'_>, _: TcpId, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn recv(
        &mut self,
        _: &mut DevCx<'_>,
        _: TcpId,
        _: &mut dyn FnMut(&mut DevCx<'_>, &[u8]) -> usize,
    ) -> usize {
        0
    }

    fn set_link(&mut self, id: TcpId, link: LinkHeader) {
        self.0.borrow_mut().links.push((id, link));
    }

    fn poll(&mut self, _: &mut DevCx<'_>, out: &mut Vec<(TcpId, TcpEvent)>) {
        out.append(&mut self.0.borrow_mut().events);
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn reset(&mut self, _: &mut DevCx<'_>) {
        let mut w = self.0.borrow_mut();
        w.resets += 1;
        w.events.clear();
    }

    fn supports(&self, _: IpAddr) -> bool {
        true
    }
}

/// A ring of pages with its page table, lent to the card.
pub(super) struct Ring {
    pub(super) pages: DmaBuf,
    pub(super) table: DmaBuf,
}

/// A connection as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Conn {
    pub(super) id: u16,
    /// Context address.
    pub(super) context: u32,
    pub(super) pg: u32,
}

pub(super) struct Host {
    pub(super) slot: Rc<RefCell<Slot>>,
    pub(super) bus: InProcess,
    actor: CardActor,
    pub(super) card: Card<Wire>,
    pub(super) faults: Faults,
    pub(super) wire: Wire,
    pub(super) cable: Cable,
    pub(super) now: Instant,
    rng: Seeded,
    pub(super) trace: Trace,
    pub(super) status: DmaBuf,
    pub(super) kwq: Ring,
    pub(super) kcq: Ring,
    pub(super) kwq_producer: u16,
    pub(super) kcq_consumer: u16,
    /// Where the status block carries the indexes: 50 in the plain block.
    pub(super) producer_at: usize,
    loans: Vec<Loan>,
    lent_in: Option<Epoch>,
}

impl Host {
    /// A powered card in a strict slot, with memory decode, bus mastering and MSI on.
    pub(super) fn new(config: ChipConfig) -> Self {
        Self::with_kcq(config, 16)
    }

    /// The same with a KCQ of so many pages.
    pub(super) fn with_kcq(config: ChipConfig, kcq_pages: usize) -> Self {
        Self::on(config, kcq_pages, Timing::default(), 1)
    }

    /// The same on a bus that holds posted writes, by the draws of `seed`.
    pub(super) fn on(config: ChipConfig, kcq_pages: usize, timing: Timing, seed: u64) -> Self {
        let (faults, wire) = (Faults::new(), Wire::default());
        let cable = Cable::default();
        let card = Bcm5709::new(config, faults.clone(), wire.clone()).with_wire(cable.clone());
        let card = Card::new(card);
        let wakes = WakeSet::default();
        let slot = Slot::new(
            SlotConfig { strict: true, timing, ..SlotConfig::default() },
            ActorId::new("chip", 0),
            Box::new(card.clone()),
            wakes.register(),
            wakes.register(),
        );
        let mut bus = InProcess(slot.clone());
        let mut buffer = |pages: usize| bus.dma_alloc(pages * PAGE, "test").expect("within the limit");
        let kwq = Ring { pages: buffer(4), table: buffer(1) };
        let kcq = Ring { pages: buffer(kcq_pages), table: buffer(1) };
        let status = buffer(1);
        let mut host = Self {
            actor: CardActor(slot.clone()),
            slot,
            bus,
            card,
            faults,
            wire,
            cable,
            now: Instant::ZERO,
            rng: Seeded::new(seed),
            trace: Trace::recording(),
            status,
            kwq,
            kcq,
            kwq_producer: 0,
            kcq_consumer: 0,
            producer_at: 50,
            loans: Vec::new(),
            lent_in: None,
        };
        host.power();
        host
    }

    /// Memory decode, bus mastering, MSI.
    pub(super) fn power(&mut self) {
        self.config_write(0x04, 6);
        self.config_write(0x58, 1 << 16);
    }

    pub(super) fn config_write(&mut self, at: u16, value: u32) {
        let (bus, mut cx) = self.split();
        bus.config_write(&mut cx, at, value);
    }

    pub(super) fn config_read(&mut self, at: u16) -> u32 {
        let (bus, mut cx) = self.split();
        bus.config_read(&mut cx, at).expect("the card is there")
    }

    pub(super) fn read(&mut self, at: u32) -> u32 {
        let (bus, mut cx) = self.split();
        bus.read32(&mut cx, BAR, at.into()).expect("the card is there")
    }

    pub(super) fn write(&mut self, at: u32, value: u32) {
        let (bus, mut cx) = self.split();
        bus.write32(&mut cx, BAR, at.into(), value);
    }

    /// A write of any width, as a guest could issue it.
    pub(super) fn write_any(&mut self, at: u64, width: Width, value: u64) {
        let actor = ActorId::new("guest", 0);
        let mut cx = Cx { now: self.now, actor, rng: &mut self.rng, trace: &mut self.trace };
        match width {
            Width::B2 => self.bus.write16(&mut cx, BAR, at, value as u16),
            _ => self.bus.write32(&mut cx, BAR, at, value as u32),
        }
    }

    pub(super) fn write16(&mut self, at: u32, value: u16) {
        let (bus, mut cx) = self.split();
        bus.write16(&mut cx, BAR, at.into(), value);
    }

    fn split(&mut self) -> (&mut InProcess, Cx<'_>) {
        let actor = ActorId::new("host", 0);
        (&mut self.bus, Cx { now: self.now, actor, rng: &mut self.rng, trace: &mut self.trace })
    }

    /// Reads through the register window.
    pub(super) fn indirect(&mut self, at: u32) -> u32 {
        self.write(regs::PCICFG_REG_WINDOW_ADDRESS, at);
        self.read(regs::PCICFG_REG_WINDOW)
    }

    /// Writes through the register window.
    pub(super) fn set_indirect(&mut self, at: u32, value: u32) {
        self.write(regs::PCICFG_REG_WINDOW_ADDRESS, at);
        self.write(regs::PCICFG_REG_WINDOW, value);
    }

    pub(super) fn shmem(&mut self, offset: u32) -> u32 {
        let base = self.indirect(shmem::SHM_HDR_ADDR_0);
        self.indirect(base + offset)
    }

    /// A message to boot code, as in the reset handshake; whether it was acknowledged.
    pub(super) fn message(&mut self, code: u32, sequence: u32) -> bool {
        let base = self.indirect(shmem::SHM_HDR_ADDR_0);
        self.set_indirect(base + shmem::DRV_MB, code | sequence);
        self.indirect(base + shmem::FW_MB) == sequence
    }

    /// The reset handshake of a driver.
    pub(super) fn reset_handshake(&mut self) {
        assert!(self.message(shmem::reset_code(shmem::DRV_MSG_DATA_WAIT0), 1));
        self.write(regs::MISC_COMMAND, regs::MISC_COMMAND_SW_RESET);
        assert_eq!(self.read(regs::PCI_SWAP_DIAG0), regs::SWAP_DIAG0_VALUE);
        assert!(self.message(shmem::reset_code(shmem::DRV_MSG_DATA_WAIT1), 2));
        assert!(self.message(shmem::reset_code(shmem::DRV_MSG_DATA_WAIT2), 3));
    }

    pub(super) fn context_write(&mut self, cid: u32, offset: u32, value: u32) {
        self.write(regs::CTX_CTX_DATA, value);
        self.write(regs::CTX_CTX_CTRL, regs::CTX_CTX_CTRL_WRITE_REQ | (ctx::address(cid) + offset));
    }

    /// Describes a kernel queue in its context.
    pub(super) fn describe(&mut self, cid: u32, table: u64, pages: usize) {
        let flags = ctx::KRNLQ_TYPE_TYPE_KRNLQ
            | ctx::KRNLQ_SIZE_TYPE_SIZE
            | ctx::KRNLQ_FLAGS_QE_SELF_SEQ
            | ctx::KRNLQ_FLAGS_PG_SZ_4K;
        self.context_write(cid, ctx::L5_KRNLQ_FLAGS, flags);
        self.context_write(cid, ctx::L5_KRNLQ_PGTBL_NPAGES, 128 << 16 | pages as u32);
        self.context_write(cid, ctx::L5_KRNLQ_PGTBL_HADDR_HI, (table >> 32) as u32);
        self.context_write(cid, ctx::L5_KRNLQ_PGTBL_HADDR_LO, table as u32);
    }

    /// Sets up status block, KWQ and KCQ, and starts both.
    pub(super) fn start(&mut self) {
        self.lend();
        let sb = self.status.addr();
        self.status.fill(0, self.status.len(), 0);
        self.write(regs::HC_STATUS_ADDR_L, sb as u32);
        self.write(regs::HC_STATUS_ADDR_H, (sb >> 32) as u32);
        self.write(regs::HC_CONFIG, regs::HC_CONFIG_ONE_SHOT | regs::HC_CONFIG_SB_ADDR_INC_128B);
        for (cid, kwq) in [(ctx::KWQ_CID, true), (ctx::KCQ_CID, false)] {
            let ring = if kwq { &self.kwq } else { &self.kcq };
            let pages = ring.pages.len() / PAGE;
            for i in 0..pages {
                ring.table.write(8 * i, IscsiPte::new(ring.pages.addr() + (i * PAGE) as u64).bytes());
            }
            let table = ring.table.addr();
            self.describe(cid, table, pages);
        }
        (self.kwq_producer, self.kcq_consumer) = (0, 0);
        self.set_indirect(regs::CP_DOORBELL_ENABLE, 1);
        self.set_indirect(regs::COM_DOORBELL_ENABLE, 1);
        self.write(regs::HC_COMMAND, regs::HC_COMMAND_ENABLE | regs::HC_COMMAND_COAL_NOW_WO_INT);
        self.run();
        assert_eq!(self.producer(), 0, "the KCQ producer is 0 after a start");
    }

    /// A started card that answered INIT with success.
    pub(super) fn up(config: ChipConfig) -> Self {
        let mut h = Self::new(config);
        h.bring_up();
        h
    }

    /// Reset handshake, queues, INIT.
    pub(super) fn bring_up(&mut self) {
        self.reset_handshake();
        self.start();
        self.submit(&init(64, 128));
        let answers = self.reap_iscsi();
        assert_eq!((answers.len(), answers[0].completion_status.get()), (1, 0), "ISCSI_INIT passed");
    }

    /// Steps the card as a runner does: again at once while it uses its budget up, at its next deadline if
    /// that is near (a write that the bus holds), and not otherwise.
    pub(super) fn run(&mut self) {
        const BUDGET: u32 = 32;
        let near = self.now + Duration::from_millis(1);
        for _ in 0..100_000 {
            let p = self.progress(BUDGET);
            match p.next {
                _ if p.done >= BUDGET => {}
                Some(t) if t <= near => self.now = self.now.max(t),
                _ => return,
            }
        }
        panic!("the card does not come to rest");
    }

    /// One step: the work items done.
    pub(super) fn step(&mut self, budget: u32) -> u32 {
        self.progress(budget).done
    }

    fn progress(&mut self, budget: u32) -> Progress {
        let actor = ActorId::new("runner", 0);
        let mut cx = Cx { now: self.now, actor, rng: &mut self.rng, trace: &mut self.trace };
        self.actor.step(&mut cx, Budget(budget))
    }

    /// Puts KWQEs into the ring and rings the doorbell. The card has not looked yet.
    pub(super) fn post(&mut self, kwqes: &[Kwqe]) {
        for e in kwqes {
            let slot = usize::from(self.kwq_producer) % (self.kwq.pages.len() / 32);
            self.kwq.pages.write(32 * slot, e.bytes());
            self.kwq_producer = self.kwq_producer.wrapping_add(1);
        }
        self.write16(doorbell::mailbox(ctx::KWQ_CID) + ctx::L5_KRNLQ_HOST_QIDX, self.kwq_producer);
    }

    /// The same, and lets the card work.
    pub(super) fn submit(&mut self, kwqes: &[Kwqe]) {
        self.post(kwqes);
        self.run();
    }

    pub(super) fn producer(&self) -> u16 {
        self.status.load16(self.producer_at)
    }

    /// Takes what is in the KCQ, without telling the card.
    pub(super) fn peek(&self) -> Vec<Kcqe> {
        let n = self.producer().wrapping_sub(self.kcq_consumer);
        let entries = self.kcq.pages.len() / 32;
        let at = |i: u16| usize::from(self.kcq_consumer.wrapping_add(i)) % entries;
        (0..n)
            .map(|i| {
                let mut bytes = [0; 32];
                self.kcq.pages.read(32 * at(i), &mut bytes);
                Kcqe::from_bytes(bytes)
            })
            .collect()
    }

    /// Takes what is in the KCQ and tells the card.
    pub(super) fn reap(&mut self) -> Vec<Kcqe> {
        let out = self.peek();
        self.kcq_consumer = self.kcq_consumer.wrapping_add(out.len() as u16);
        self.write16(doorbell::mailbox(ctx::KCQ_CID) + ctx::L5_KRNLQ_HOST_QIDX, self.kcq_consumer);
        self.run();
        out
    }

    pub(super) fn reap_iscsi(&mut self) -> Vec<IscsiKcqe> {
        self.reap().iter().map(|e| *e.view::<IscsiKcqe>()).collect()
    }

    pub(super) fn reap_l4(&mut self) -> Vec<L4Kcq> {
        self.reap().iter().map(|e| *e.view::<L4Kcq>()).collect()
    }

    /// Layer << 8 | opcode and status of everything in the KCQ.
    pub(super) fn answers(&mut self) -> Vec<(u32, u32)> {
        let key = |e: &Kcqe| u32::from(e.layer().0) << 8 | u32::from(e.opcode());
        let status = |e: &Kcqe| match e.layer().0 {
            6 => e.view::<IscsiKcqe>().completion_status.get(),
            _ => e.view::<L4Kcq>().status.get().into(),
        };
        self.reap().iter().map(|e| (key(e), status(e))).collect()
    }

    pub(super) fn interrupts(&mut self) -> VectorSet {
        self.bus.take_interrupts()
    }

    /// Acknowledges the status index that the block shows.
    pub(super) fn ack_interrupt(&mut self) {
        let index = u32::from(self.status.load16(54));
        self.write(regs::PCICFG_INT_ACK_CMD, regs::PCICFG_INT_ACK_CMD_INDEX_VALID | index);
    }

    /// Resets from outside.
    pub(super) fn reset_by_slot(&mut self, kind: ResetKind) -> Revoked {
        let (bus, mut cx) = self.split();
        bus.reset(&mut cx, kind).expect("the card is there")
    }

    /// Pulls the card.
    pub(super) fn remove(&mut self) {
        let actor = ActorId::new("operator", 0);
        let mut cx = Cx { now: self.now, actor, rng: &mut self.rng, trace: &mut self.trace };
        self.slot.borrow_mut().remove(&mut cx);
    }

    /// Lends status block and kernel queues, once in each epoch.
    fn lend(&mut self) {
        if self.lent_in == Some(self.bus.epoch()) {
            return;
        }
        self.lent_in = Some(self.bus.epoch());
        for buf in [&self.status, &self.kwq.pages, &self.kwq.table, &self.kcq.pages, &self.kcq.table] {
            self.loans.push(self.bus.lend(buf, 0..buf.len(), Dir::Both));
        }
    }

    pub(super) fn kcq_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.kcq.pages.len()];
        self.kcq.pages.read(0, &mut bytes);
        bytes
    }

    pub(super) fn lent(&mut self, bytes: usize) -> DmaBuf {
        let buf = self.bus.dma_alloc(bytes, "test").expect("within the limit");
        self.loans.push(self.bus.lend(&buf, 0..bytes, Dir::Both));
        buf
    }

    /// Rings of a connection: (KWQEs of OFFLOAD_CONN, the buffers).
    pub(super) fn offload_kwqes(&mut self, id: u16) -> ([Kwqe; 2], Vec<DmaBuf>) {
        let mut buffers = Vec::new();
        let mut table = |h: &mut Self, bytes: usize| {
            let (ring, table) = (h.lent(bytes), h.lent(PAGE));
            for i in 0..bytes / PAGE {
                table.write(8 * i, IscsiPte::new(ring.addr() + (i * PAGE) as u64).bytes());
            }
            let addr = table.addr();
            buffers.extend([ring, table]);
            addr
        };
        let (sq, cq, rq) = (table(self, 64 * 64), table(self, 128 * 64), table(self, 16 * 256));
        let mut one = IscsiKwqeConnOffload1::blank();
        one.iscsi_conn_id = U16::new(id);
        one.set_sq_page_table_addr(sq);
        one.set_cq_page_table_addr(cq);
        let mut two = IscsiKwqeConnOffload2::blank();
        two.set_rq_page_table_addr(rq);
        ([one.into_element(), two.into_element()], buffers)
    }

    /// Offloads a connection: its context address, or the status.
    pub(super) fn offload(&mut self, id: u16) -> Result<u32, u32> {
        let (kwqes, _buffers) = self.offload_kwqes(id);
        self.submit(&kwqes);
        let answers = self.reap_iscsi();
        assert_eq!(answers.len(), 1);
        let a = answers[0];
        assert_eq!((a.op_code.0, a.iscsi_conn_id.get()), (0x10, id.into()));
        match a.completion_status.get() {
            0 => Ok(a.iscsi_conn_context_id.get()),
            status => Err(status),
        }
    }

    /// Offloads a path group.
    pub(super) fn offload_pg(&mut self, opaque: u32) -> L4Kcq {
        self.submit(&[offload_pg(opaque)]);
        let answers = self.reap_l4();
        assert_eq!((answers.len(), answers[0].pg_host_opaque.get()), (1, opaque));
        answers[0]
    }

    /// A connection that is offloaded, with path group, and not connected yet.
    pub(super) fn prepared(&mut self, id: u16) -> Conn {
        let context = self.offload(id).expect("there is a context");
        let pg = self.offload_pg(id.into());
        assert_eq!(pg.status.get(), 0);
        Conn { id, context, pg: pg.pg_cid.get() }
    }

    /// An established connection.
    pub(super) fn connected(&mut self, id: u16) -> Conn {
        let c = self.prepared(id);
        self.submit(&connect(c));
        assert_eq!(self.answers(), [(0x438, 0)]);
        c
    }
}

/// INIT1 and INIT2.
pub(super) fn init(sq: u16, cq: u16) -> [Kwqe; 2] {
    let mut one = IscsiKwqeInit1::blank();
    one.num_cqs = 1;
    (one.sq_num_wqes, one.cq_num_wqes, one.rq_num_wqes) = (U16::new(sq), U16::new(cq), U16::new(16));
    (one.num_tasks_per_conn, one.num_ccells_per_conn) = (U16::new(sq), U16::new(sq / 2));
    (one.sq_wqes_per_page, one.cq_log_wqes_per_page, one.rq_buffer_size) = (U16::new(64), 6, U16::new(256));
    one.flags = hsi::kernel::kwq::ISCSI_PAGE_SIZE_4K;
    let mut two = IscsiKwqeInit2::blank();
    two.max_cq_sqn = U16::new(cq.wrapping_mul(2).wrapping_add(1));
    two.set_error_mask(hsi::bcm5709::limits::DEFAULT_ERROR_MASK);
    [one.into_element(), two.into_element()]
}

/// OFFLOAD_PG.
pub(super) fn offload_pg(opaque: u32) -> Kwqe {
    let mut pg = L4KwqOffloadPg::blank();
    pg.set_da([2, 0, 0, 0, 0, 1]);
    pg.set_sa([0, 0x10, 0x18, 0xaa, 0xbb, 0xcd]);
    pg.host_opaque = U32::new(opaque);
    pg.into_element()
}

/// CONNECT1 and CONNECT3 from 10.0.0.1:60000 to 10.0.0.2:3260.
pub(super) fn connect(c: Conn) -> [Kwqe; 2] {
    let mut one = L4KwqConnectReq1::blank();
    (one.cid, one.pg_cid) = (U32::new(c.context), U32::new(c.pg));
    (one.src_ip, one.dst_ip) = (U32::new(0x0a00_0001), U32::new(0x0a00_0002));
    (one.src_port, one.dst_port) = (U16::new(60_000), U16::new(3260));
    [one.into_element(), connect3().into_element()]
}

pub(super) fn connect3() -> L4KwqConnectReq3 {
    let mut three = L4KwqConnectReq3::blank();
    (three.mss, three.pmtu) = (U16::new(1460), U16::new(1500));
    (three.rcv_buf, three.snd_buf) = (U32::new(262_144), U32::new(262_144));
    three
}
