//! The host and the target of the engine's tests.

use bus::Budget;
use bus::wake::WakeSet;
use hsi::View;
use hsi::bcm5709::pte::IscsiPte;
use hsi::iscsi::bd::{ISCSI_BD_FIRST_IN_BD_CHAIN, ISCSI_BD_LAST_IN_BD_CHAIN, IscsiBd};
use hsi::iscsi::bits::{Cdb, Itt, Lun, TaskType};
use hsi::iscsi::cq::{CqOpcode, CqSequence, Cqe};
use hsi::iscsi::rq::RqProducer;
use hsi::iscsi::sq::{CmdRequest, LoginRequest, RespBuffer, SqOpcode, Sqe};
use hsi::{U16, U32};
use iscsi::digest::{data_digest, header_digest};
use iscsi::framing::{Event, Framer};
use iscsi::pdu::{self, Bhs, Header, MAX_DATA_SEGMENT_LEN, padding};
use zerocopy::IntoBytes;

use super::super::*;
use crate::tcp::memory::{MemoryNet, MemoryPeer, MemoryTcp, PeerReceived, StreamId};
use crate::testing::{BASE, Bench, connect_request};

pub(super) const ID: TcpId = TcpId(5);
pub(super) const LUN: [u8; 8] = [0, 3, 0, 0, 0, 0, 0, 0];
pub(super) const PORTAL: &str = "10.0.0.1:3260";

/// Page tables, then rings whose pages lie in reverse order, then buffer lists, then data.
const SQ_TABLE: u64 = BASE;
const CQ_TABLE: u64 = BASE + 0x1000;
const RQ_TABLE: u64 = BASE + 0x2000;
const RINGS: u64 = BASE + 0x10000;
const LISTS: u64 = BASE + 0x40000;
const RESPONSE_LIST: u64 = BASE + 0x4f000;
pub(super) const RESPONSE: u64 = BASE + 0x50000;
pub(super) const DATA: u64 = BASE + 0x60000;
const MEMORY: usize = 0x60000 + (4 << 20);

pub(super) const INIT: InitParams = InitParams {
    sq_wqes: 64,
    cq_cqes: 128,
    rq_buffers: 16,
    rq_buffer_size: 256,
    tasks: 64,
    page_size: 4096,
    max_cq_sqn: 257,
    warning_mask: 0x1_0800_8000,
};

pub(super) const PARAMS: UpdateParams = UpdateParams {
    header_digest: false,
    data_digest: false,
    initial_r2t: true,
    immediate_data: true,
    max_outstanding_r2ts: 1,
    max_send_pdu: 8192,
    max_recv_pdu: 8192,
    first_burst: 65536,
    max_burst: 262_144,
    exp_stat_sn: 100,
};

/// A PDU that the target received.
pub(super) struct Pdu {
    pub(super) bhs: Bhs,
    pub(super) data: Vec<u8>,
}

impl Pdu {
    pub(super) fn as_<T: Header>(&self) -> &T {
        assert_eq!(self.bhs.opcode(), Ok(T::OPCODE));
        self.bhs.view().expect("a sound header")
    }
}

/// Where a ring's pages lie: page tables must be read, not guessed.
fn ring_page(first: u64, pages: u64, i: u64) -> u64 {
    RINGS + (first + pages - 1 - i) * 4096
}

pub(super) struct Rig {
    pub(super) bench: Bench,
    pub(super) net: MemoryNet,
    pub(super) target: MemoryPeer,
    pub(super) stream: Option<StreamId>,
    pub(super) engine: Engine<MemoryTcp>,
    pub(super) faults: Faults,
    pub(super) events: Vec<EngineEvent>,
    pub(super) init: InitParams,
    pub(super) params: UpdateParams,
    pub(super) stat_sn: u32,
    pub(super) budget: u32,
    sq_producer: u16,
    sq_slot: u16,
    cq: CqSequence,
    rq: RqProducer,
    rq_slot: u16,
    framer: Framer,
    lists: u64,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(INIT, MemoryNet::default())
    }

    /// An initialised engine with a connection that is offloaded, not connected.
    pub(super) fn with(init: InitParams, net: MemoryNet) -> Self {
        let (wakes, faults) = (WakeSet::default(), Faults::new());
        let target = net.peer(wakes.register());
        target.listen(PORTAL.parse().unwrap()).unwrap();
        let tcp = net.card(wakes.register());
        let engine = Engine::new(&ChipConfig::default(), faults.clone(), tcp);
        let mut rig = Self {
            bench: Bench::with_memory(MEMORY),
            net,
            target,
            stream: None,
            engine,
            faults,
            events: Vec::new(),
            init,
            params: PARAMS,
            stat_sn: 1,
            budget: 1 << 20,
            sq_producer: 0,
            sq_slot: 0,
            cq: CqSequence::new(init.cq_cqes),
            rq: RqProducer::INITIAL,
            rq_slot: 0,
            framer: Framer::new(MAX_DATA_SEGMENT_LEN),
            lists: 0,
        };
        for (table, first, pages) in rig.tables() {
            for i in 0..pages {
                let pte = IscsiPte::new(ring_page(first, pages, i));
                rig.write(table + i * 8, pte.as_bytes());
            }
        }
        rig.engine.init(init).unwrap();
        rig.offload().unwrap();
        rig
    }

    fn tables(&self) -> [(u64, u64, u64); 3] {
        let pages = |bytes: usize| bytes.div_ceil(4096) as u64;
        let i = &self.init;
        [
            (SQ_TABLE, 0, pages(usize::from(i.sq_wqes) * 64)),
            (CQ_TABLE, 8, pages(usize::from(i.cq_cqes) * 64)),
            (RQ_TABLE, 16, pages(usize::from(i.rq_buffers) * usize::from(i.rq_buffer_size))),
        ]
    }

    fn ring_addr(&self, ring: usize, offset: usize) -> u64 {
        let (_, first, pages) = self.tables()[ring];
        ring_page(first, pages, (offset / 4096) as u64) + (offset % 4096) as u64
    }

    pub(super) fn ring_tables(&self) -> RingTables {
        RingTables { sq: SQ_TABLE, cq: CQ_TABLE, rq: RQ_TABLE }
    }

    pub(super) fn offload(&mut self) -> Result<(), u32> {
        let tables = self.ring_tables();
        let engine = &mut self.engine;
        self.bench.with(|cx| engine.offload_conn(cx, ID, tables))
    }

    /// Connected, not logged in.
    pub(super) fn connected() -> Self {
        Self::new().connect()
    }

    pub(super) fn connect(mut self) -> Self {
        self.call(|e, cx| e.connect(cx, ID, &connect_request(PORTAL.parse().unwrap())));
        assert_eq!(self.take_events(), [EngineEvent::ConnectComplete(ID, 0)]);
        self.stream = Some(self.target.accept().unwrap().0);
        self
    }

    /// In full feature phase with these parameters.
    pub(super) fn full_feature(params: UpdateParams) -> Self {
        Self::connected().update(params)
    }

    pub(super) fn update(self, params: UpdateParams) -> Self {
        let mut rig = self.update_keeping_events(params);
        assert_eq!(rig.take_events(), [EngineEvent::UpdateComplete(ID, 0)]);
        rig
    }

    pub(super) fn update_keeping_events(mut self, params: UpdateParams) -> Self {
        self.params = params;
        self.stat_sn = params.exp_stat_sn;
        self.call(|e, cx| e.update_conn(cx, ID, &params));
        self.framer.configure(params.header_digest, params.data_digest, MAX_DATA_SEGMENT_LEN).unwrap();
        self
    }

    /// Calls the engine and lets it work.
    pub(super) fn call(&mut self, f: impl FnOnce(&mut Engine<MemoryTcp>, &mut DevCx<'_>)) {
        let engine = &mut self.engine;
        self.bench.with(|cx| f(engine, cx));
        self.run();
    }

    /// Steps the engine until it rests.
    pub(super) fn run(&mut self) -> Progress {
        let mut out = EngineEvents::new();
        for _ in 0..1_000_000 {
            let (engine, budget) = (&mut self.engine, Budget(self.budget));
            let p = self.bench.with(|cx| engine.step(cx, budget, &mut out));
            self.events.extend(out.drain(..));
            if p.done < self.budget {
                return p;
            }
        }
        panic!("the engine does not come to rest");
    }

    pub(super) fn take_events(&mut self) -> Vec<EngineEvent> {
        std::mem::take(&mut self.events)
    }

    /// Events other than CQ events.
    pub(super) fn take_reports(&mut self) -> Vec<EngineEvent> {
        let mut events = self.take_events();
        events.retain(|e| !matches!(e, EngineEvent::CqEvent(_)));
        events
    }

    // The host.

    pub(super) fn write(&mut self, addr: u64, bytes: &[u8]) {
        let at = (addr - BASE) as usize;
        self.bench.host.mem[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let at = (addr - BASE) as usize;
        self.bench.host.mem[at..at + len].to_vec()
    }

    /// Writes an SQ entry without ringing.
    pub(super) fn place(&mut self, wqe: impl View<Sqe>) {
        let addr = self.ring_addr(0, usize::from(self.sq_slot) * 64);
        self.write(addr, &wqe.into_element().sqe_byte);
        self.sq_slot = (self.sq_slot + 1) % self.init.sq_wqes;
        self.sq_producer = self.sq_producer.wrapping_add(1);
    }

    /// The SQ producer index.
    pub(super) fn producer(&self) -> u16 {
        self.sq_producer
    }

    pub(super) fn ring(&mut self) {
        self.engine.ring_sq(ID, self.sq_producer);
        self.run();
    }

    pub(super) fn post(&mut self, wqe: impl View<Sqe>) {
        self.place(wqe);
        self.ring();
    }

    pub(super) fn reap(&mut self) -> Option<Cqe> {
        let addr = self.ring_addr(1, usize::from(self.cq.slot()) * 64);
        let cqe = Cqe { cqe_byte: self.read(addr, 64).try_into().unwrap() };
        if cqe.cq_req_sn() != self.cq.sn() {
            return None;
        }
        self.cq.advance();
        Some(cqe)
    }

    pub(super) fn reap_opcode(&mut self, opcode: CqOpcode) -> Cqe {
        let cqe = self.reap().unwrap_or_else(|| panic!("no CQE; {:?}", self.events));
        assert_eq!(cqe.opcode(), opcode);
        cqe
    }

    /// Contents of the next RQ buffer, not returned yet.
    pub(super) fn rq_buffer(&mut self, len: usize) -> Vec<u8> {
        let addr = self.ring_addr(2, usize::from(self.rq_slot) * usize::from(self.init.rq_buffer_size));
        self.rq_slot = (self.rq_slot + 1) % self.init.rq_buffers;
        self.read(addr, len)
    }

    /// The RQ producer index after `count` more buffers.
    pub(super) fn advance_rq(&mut self, count: u16) -> u16 {
        self.rq = self.rq.advance(count, self.init.rq_buffers);
        self.rq.0
    }

    pub(super) fn return_rq(&mut self, count: u16) {
        let index = self.advance_rq(count);
        self.engine.ring_rq(ID, index);
        self.run();
    }

    /// Writes a buffer list whose pieces have these lengths, from `addr` on with gaps of 3 bytes.
    pub(super) fn list(&mut self, addr: u64, pieces: &[u16]) -> u64 {
        let list = LISTS + self.lists % 64 * 512;
        self.lists += 1;
        self.write_list(list, addr, pieces);
        list
    }

    pub(super) fn write_list(&mut self, list: u64, mut addr: u64, pieces: &[u16]) {
        for (i, &len) in pieces.iter().enumerate() {
            let mut bd = IscsiBd::new(addr, len);
            let first = if i == 0 { ISCSI_BD_FIRST_IN_BD_CHAIN } else { 0 };
            let last = if i + 1 == pieces.len() { ISCSI_BD_LAST_IN_BD_CHAIN } else { 0 };
            bd.flags = U16::new(first | last);
            self.write(list + i as u64 * 16, bd.as_bytes());
            addr += u64::from(len) + 3;
        }
    }

    pub(super) fn gather(&self, mut addr: u64, pieces: &[u16]) -> Vec<u8> {
        let mut out = Vec::new();
        for &len in pieces {
            out.extend(self.read(addr, usize::from(len)));
            addr += u64::from(len) + 3;
        }
        out
    }

    pub(super) fn scatter(&mut self, mut addr: u64, pieces: &[u16], mut data: &[u8]) {
        for &len in pieces {
            let (now, rest) = data.split_at(usize::from(len).min(data.len()));
            self.write(addr, now);
            data = rest;
            addr += u64::from(len) + 3;
        }
    }

    /// A SCSI command over the pieces at `addr`, with the bookmarks as the driver computes them.
    pub(super) fn command(&mut self, index: u16, write: bool, addr: u64, pieces: &[u16]) -> CmdRequest {
        let len: u32 = pieces.iter().map(|&l| u32::from(l)).sum();
        let mut w = CmdRequest::default();
        w.op_code = SqOpcode::SCSI_CMD;
        w.op_attr = 1 | if len == 0 {
            0
        } else if write {
            0x20
        } else {
            0x40
        };
        w.lun = Lun::from_wire(LUN);
        w.itt = Itt::new(index, if write { TaskType::WRITE } else { TaskType::READ });
        w.total_data_transfer_length = U32::new(len);
        w.cmd_sn = U32::new(0x1000 + u32::from(index));
        w.cdb = Cdb::from_wire([if write { 0x2a } else { 0x28 }; 16]);
        w.num_bds = pieces.len() as u8;
        let list = self.list(addr, pieces);
        w.set_bd_list_addr(list);
        if write {
            let p = &self.params;
            let burst = len.min(p.first_burst);
            let immediate = if p.immediate_data { burst.min(p.max_send_pdu) } else { 0 };
            let solicited = if p.initial_r2t { immediate } else { burst };
            let bookmark = |at: u32| {
                let (mut i, mut left) = (0, at);
                while left >= u32::from(pieces[i]) {
                    left -= u32::from(pieces[i]);
                    i += 1;
                }
                (i as u8, U16::new(left as u16))
            };
            if solicited > immediate {
                (w.ud_start_bd_index, w.ud_buffer_offset) = bookmark(immediate);
            }
            if solicited < len {
                (w.sd_start_bd_index, w.sd_buffer_offset) = bookmark(solicited);
            }
        }
        w
    }

    pub(super) fn login_request(&mut self, text: &[u8]) -> LoginRequest {
        let mut w = LoginRequest::default();
        w.op_code = SqOpcode::LOGIN;
        w.op_attr = 0x81;
        w.set_isid([0, 2, 0x3d, 1, 2, 3]);
        w.itt = Itt::new(9, TaskType::MPATH);
        w.cmd_sn = U32::new(7);
        w.exp_stat_sn = U32::new(77);
        w.flags = 4;
        w.data_length = U32::new(text.len() as u32);
        self.write(DATA, text);
        if !text.is_empty() {
            w.set_bd_list_addr(self.list(DATA, &[text.len() as u16]));
            w.num_bds = 1;
        }
        self.write_list(RESPONSE_LIST, RESPONSE, &[8192]);
        w.set_resp_bd_list_addr(RESPONSE_LIST);
        w.resp_buffer = RespBuffer { length: 8192, num_bds: 1 }.to_word();
        w
    }

    // The target.

    /// PDUs that arrived, with digests checked.
    pub(super) fn received(&mut self) -> Vec<Pdu> {
        let (mut out, mut buf) = (Vec::new(), vec![0; 65536]);
        let id = self.stream.unwrap();
        loop {
            let n = match self.target.recv(id, &mut buf) {
                PeerReceived::Bytes(n) => n,
                _ => {
                    self.run();
                    match self.target.recv(id, &mut buf) {
                        PeerReceived::Bytes(n) => n,
                        _ => return out,
                    }
                }
            };
            let mut input = &buf[..n];
            while let Some(event) = self.framer.next(&mut input).unwrap() {
                match event {
                    Event::Header => out.push(Pdu { bhs: *self.framer.bhs(), data: Vec::new() }),
                    Event::Data { bytes, .. } => out.last_mut().unwrap().data.extend_from_slice(bytes),
                    Event::End { data_digest_ok } => assert!(data_digest_ok),
                }
            }
        }
    }

    /// Takes what arrived, whatever it is.
    pub(super) fn received_bytes(&mut self) {
        let mut buf = [0; 4096];
        while let PeerReceived::Bytes(_) = self.target.recv(self.stream.unwrap(), &mut buf) {
            self.run();
        }
    }

    /// The one PDU that arrived.
    pub(super) fn received_one(&mut self) -> Pdu {
        let mut all = self.received();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    /// The bytes of a PDU, with the digests that were negotiated.
    pub(super) fn encode(&self, bhs: &Bhs, data: &[u8]) -> Vec<u8> {
        let mut bhs = *bhs;
        bhs.data_segment_length.set(data.len() as u32);
        let mut out = bhs.wire().to_vec();
        if self.params.header_digest {
            out.extend(header_digest(bhs.wire(), &[]));
        }
        out.extend_from_slice(data);
        out.extend(&[0; 3][..padding(data.len())]);
        if self.params.data_digest && !data.is_empty() {
            out.extend(data_digest(data));
        }
        out
    }

    pub(super) fn send_bytes(&mut self, mut bytes: &[u8]) {
        let id = self.stream.unwrap();
        while !bytes.is_empty() {
            let n = self.target.send(id, bytes);
            bytes = &bytes[n..];
            let before = *self.engine.counters();
            self.run();
            if n == 0 && before == *self.engine.counters() {
                return; // The card has stopped receiving.
            }
        }
    }

    pub(super) fn send(&mut self, bhs: &Bhs, data: &[u8]) {
        let bytes = self.encode(bhs, data);
        self.send_bytes(&bytes);
    }

    /// StatSN of a response, which is spent.
    pub(super) fn next_stat_sn(&mut self) -> pdu::U32 {
        self.stat_sn += 1;
        (self.stat_sn - 1).into()
    }

    /// A SCSI response that ends the command GOOD.
    pub(super) fn good(&mut self, itt: pdu::U32, data_pdus: u32) -> pdu::ScsiResponse {
        let mut r = pdu::ScsiResponse::new();
        r.itt = itt;
        r.stat_sn = self.next_stat_sn();
        r.exp_cmd_sn = 0x1001.into();
        r.max_cmd_sn = 0x1041.into();
        r.exp_data_sn = data_pdus.into();
        r
    }

    pub(super) fn data_in(&mut self, itt: pdu::U32, sn: u32, offset: u32) -> pdu::DataIn {
        let mut d = pdu::DataIn::new();
        d.itt = itt;
        d.data_sn = sn.into();
        d.buffer_offset = offset.into();
        d
    }

    pub(super) fn r2t(&mut self, itt: pdu::U32, sn: u32, offset: u32, len: u32) -> pdu::R2t {
        let mut r = pdu::R2t::new();
        r.itt = itt;
        r.lun = LUN;
        r.ttt = (0xabc0_0000 + sn).into();
        r.r2t_sn = sn.into();
        r.buffer_offset = offset.into();
        r.desired_length = len.into();
        r.stat_sn = self.stat_sn.into();
        r
    }

    /// Serves a read: Data-Ins of at most `max_recv_pdu`, bursts of at most `max_burst`, status as told.
    pub(super) fn serve_read(&mut self, command: &Pdu, data: &[u8], status_in_data: bool) -> u32 {
        let itt = command.as_::<pdu::ScsiCommand>().itt;
        let (max, burst) = (self.params.max_recv_pdu as usize, self.params.max_burst as usize);
        let (mut at, mut sn) = (0, 0);
        while at < data.len() {
            let n = max.min(data.len() - at).min(burst - at % burst);
            let mut d = self.data_in(itt, sn, at as u32);
            if at + n == data.len() || (at + n) % burst == 0 {
                d.flags |= pdu::flags::FINAL;
            }
            if status_in_data && at + n == data.len() {
                d.flags |= pdu::flags::STATUS;
                d.stat_sn = self.next_stat_sn();
                (d.exp_cmd_sn, d.max_cmd_sn) = (0x1001.into(), 0x1041.into());
            }
            self.send(&d, &data[at..at + n]);
            at += n;
            sn += 1;
        }
        if !status_in_data || data.is_empty() {
            let r = self.good(itt, sn);
            self.send(&r, &[]);
        }
        sn
    }

    /// Serves a write: takes what comes unasked, asks for the rest, ends it GOOD. The data, Data-Outs and
    /// R2Ts.
    pub(super) fn serve_write(&mut self, mut pdus: Vec<Pdu>) -> (Vec<u8>, u16, u16) {
        let command = pdus.remove(0);
        let c = *command.as_::<pdu::ScsiCommand>();
        let len = c.expected_data_transfer_length.get();
        let (mut data, mut outs, mut r2ts) = (command.data, 0, 0);
        let mut unsolicited_open = !c.is_final();
        loop {
            let mut sn = 0;
            for p in pdus.drain(..) {
                let d = p.as_::<pdu::DataOut>();
                assert_eq!((d.itt, d.lun), (c.itt, LUN));
                assert_eq!((d.data_sn.get(), d.buffer_offset.get() as usize), (sn, data.len()));
                assert!(p.data.len() <= self.params.max_send_pdu as usize && !p.data.is_empty());
                let ttt =
                    if unsolicited_open { pdu::RESERVED_TAG } else { 0xabc0_0000 + u32::from(r2ts) - 1 };
                assert_eq!(d.ttt.get(), ttt);
                data.extend_from_slice(&p.data);
                sn += 1;
                outs += 1;
                if d.is_final() {
                    unsolicited_open = false;
                    sn = 0;
                }
            }
            assert!(!unsolicited_open, "the unsolicited sequence was ended");
            let missing = len - data.len() as u32;
            if missing == 0 {
                let r = self.good(c.itt, u32::from(r2ts));
                self.send(&r, &[]);
                return (data, outs, r2ts);
            }
            let r = self.r2t(c.itt, u32::from(r2ts), data.len() as u32, missing.min(self.params.max_burst));
            r2ts += 1;
            self.send(&r, &[]);
            pdus = self.received();
            assert!(pdus.last().unwrap().bhs.is_final());
        }
    }
}

/// Bytes that differ from place to place.
pub(super) fn pattern(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
}
