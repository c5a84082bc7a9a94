//! A small card that answers KWQEs and WQEs as told. It knows the rings and nothing of TCP or iSCSI, and can
//! be made to swallow, delay or falsify any answer.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bus::pci::{
    Bar, BarLayout, DevCx, FunctionLayout, Grant, MsixLayout, PciFunction, ResetKind, ResetReport, Vector,
    Width, Word,
};
use bus::{Budget, Progress};
use hsi::bcm5709::pte::IscsiPte;
use hsi::bcm5709::{ctx, regs as r, shmem as s};
use hsi::iscsi::bd::IscsiBd;
use hsi::iscsi::cq::{CmdResponse, CqOpcode, CqSequence, Cqe};
use hsi::iscsi::sq::{CmdRequest, SqOpcode, Sqe};
use hsi::kernel::kcq::{CompletionStatus, IscsiKcqe, IscsiKcqeOpcode, Kcqe};
use hsi::kernel::kwq::{IscsiKwqeConnDestroy, IscsiKwqeConnOffload1, IscsiKwqeConnOffload2, Kwqe};
use hsi::kernel::l4::{
    L4_FLAGS, L4Kcq, L4KcqUploadPg, L4KcqeOpcode, L4KwqConnectReq1, L4KwqOffloadPg, L4KwqUpdatePg,
    L4KwqUpload,
};
use hsi::{U16, U32, View};
use zerocopy::{FromBytes, IntoBytes};

/// KWQ opcodes with their layer, as events name them: layer << 8 | opcode.
pub(super) mod op {
    pub(crate) const OFFLOAD: u16 = 0x600;
    pub(crate) const UPDATE: u16 = 0x602;
    pub(crate) const DESTROY: u16 = 0x603;
    pub(crate) const INIT: u16 = 0x605;
    pub(crate) const OFFLOAD_PG: u16 = 0x401;
    pub(crate) const UPDATE_PG: u16 = 0x409;
    pub(crate) const UPLOAD_PG: u16 = 0x40e;
    pub(crate) const CONNECT: u16 = 0x432;
    pub(crate) const RESET: u16 = 0x435;
    pub(crate) const CLOSE: u16 = 0x436;
    pub(crate) const FLUSH: u16 = 0x204;
    /// CQ_EVENT_NOTIFICATION, to swallow.
    pub(crate) const EVENT: u16 = 0x620;
}

const SHMEM: u32 = s::HOST_VIEW_SHMEM_BASE;
const SB_CMD: u64 = 48;
const SB_COMPLETION: u64 = 50;
const SB_INDEX: u64 = 54;
const SB_TX2: u64 = 14;
const SB_RX2: u64 = 22;

/// One offloaded connection as the card sees it.
#[derive(Clone, Debug)]
pub(super) struct Conn {
    pub(crate) sq: u64,
    pub(crate) cq: u64,
    pub(crate) rq: u64,
    pub(crate) sq_done: u16,
    pub(crate) next: CqSequence,
    /// RQ buffers that the host gave, and the slot to use next.
    pub(crate) rq_given: hsi::iscsi::rq::RqProducer,
    pub(crate) rq_left: u16,
    pub(crate) rq_slot: u16,
}

/// What the test and the card share.
pub(super) struct Card {
    /// Commands that may come after the one that is answered.
    pub(crate) window: u32,
    /// KWQEs whose answer is swallowed.
    pub(crate) swallow: Vec<u16>,
    /// KWQEs that are forgotten once.
    pub(crate) lose: Vec<u16>,
    /// Completion statuses other than success.
    pub(crate) status: BTreeMap<u16, u32>,
    /// Nothing is answered at all, not even register resets.
    pub(crate) mute: bool,
    /// KWQEs are not fetched.
    pub(crate) hold_kwq: bool,
    pub(crate) resets_by_register: bool,
    pub(crate) licensed: bool,
    pub(crate) max_connections: u32,
    pub(crate) firmware: bool,
    /// What the header says about the place of shared memory.
    pub(crate) shmem: u32,
    /// KWQEs seen, in order.
    pub(crate) kwqes: Vec<(u16, Kwqe)>,
    /// WQEs seen: cid, entry.
    pub(crate) wqes: Vec<(u16, Sqe)>,
    /// SCSI commands are answered by themselves, with CHECK CONDITION and this many sense bytes (in the RQ).
    pub(crate) answer_sense: Option<u16>,
    pub(crate) conns: BTreeMap<u16, Conn>,
    /// Path groups, by the cid of their host opaque. An answer that is swallowed leaves its effect behind.
    pub(crate) groups: BTreeSet<u16>,
    /// Entries to send at the next step.
    pub(crate) send: Vec<Kcqe>,
    pub(crate) send_cqes: Vec<(u16, Cqe)>,
    pub(crate) resets: u32,
    pub(crate) rq_underruns: u32,
    pub(crate) mq_config2: u32,
    pub(crate) doorbells: Vec<u64>,
    /// Writes to what the helper may write.
    pub(crate) ring_writes: Vec<(u64, u64)>,
    /// Context words of CIDs 20 and 2.
    pub(crate) ring_context: BTreeMap<u32, u32>,
    /// Transmit and receive consumer 2, to publish at the next step.
    pub(crate) ring_index: Option<(u16, u16)>,
    /// Status indexes that were acknowledged last.
    pub(crate) acked: u16,
}

pub(super) struct Fake {
    layout: FunctionLayout,
    pub(super) card: Rc<RefCell<Card>>,
    grant: Option<Grant>,
    regs: BTreeMap<u32, u32>,
    window: BTreeMap<u32, u32>,
    context: BTreeMap<u32, u32>,
    kwq_consumer: u16,
    kwq_producer: u16,
    kcq_producer: u16,
    index: u16,
    published: (u16, u16),
}

impl Fake {
    pub(super) fn new() -> (Self, Rc<RefCell<Card>>) {
        let card = Rc::new(RefCell::new(Card {
            window: 64,
            swallow: Vec::new(),
            lose: Vec::new(),
            status: BTreeMap::new(),
            mute: false,
            hold_kwq: false,
            resets_by_register: true,
            licensed: true,
            max_connections: 128,
            firmware: true,
            shmem: SHMEM,
            kwqes: Vec::new(),
            wqes: Vec::new(),
            answer_sense: Some(0),
            conns: BTreeMap::new(),
            groups: BTreeSet::new(),
            send: Vec::new(),
            send_cqes: Vec::new(),
            resets: 0,
            rq_underruns: 0,
            mq_config2: 0,
            doorbells: Vec::new(),
            ring_writes: Vec::new(),
            ring_context: BTreeMap::new(),
            ring_index: None,
            acked: 0,
        }));
        let layout = FunctionLayout {
            vendor: 0x14e4,
            device: 0x1639,
            revision: 0x20,
            class: 0x02_0000,
            subsystem: (0x14e4, 0x1639),
            bars: vec![BarLayout { bar: Bar(0), size: 32 << 20, wide: true }],
            pm: 0x48,
            msi: 0x58,
            msix: MsixLayout { capability: 0xa0, vectors: 9, bar: Bar(0), table: 0xc000, pba: 0xe000 },
            pcie: 0xac,
        };
        let fake = Self {
            layout,
            card: card.clone(),
            grant: None,
            regs: BTreeMap::new(),
            window: BTreeMap::new(),
            context: BTreeMap::new(),
            kwq_consumer: 0,
            kwq_producer: 0,
            kcq_producer: 0,
            index: 0,
            published: (0, 0),
        };
        (fake, card)
    }

    fn reg(&self, at: u32) -> u32 {
        self.regs.get(&at).copied().unwrap_or(0)
    }

    fn status_block(&self) -> u64 {
        u64::from(self.reg(r::HC_STATUS_ADDR_H)) << 32 | u64::from(self.reg(r::HC_STATUS_ADDR_L))
    }

    fn page(&self, cx: &mut DevCx<'_>, table: u64, i: u64) -> Option<u64> {
        let mut pte = [0; 8];
        cx.dma_read(table + 8 * i, &mut pte, self.grant?).ok()?;
        Some(IscsiPte::read_from_bytes(&pte).unwrap().addr())
    }

    fn ring_table(&self, cid: u32) -> u64 {
        let at = ctx::address(cid);
        let word = |o| u64::from(self.context.get(&(at + o)).copied().unwrap_or(0));
        word(ctx::L5_KRNLQ_PGTBL_HADDR_HI) << 32 | word(ctx::L5_KRNLQ_PGTBL_HADDR_LO)
    }

    fn post(&mut self, cx: &mut DevCx<'_>, mut kcqe: Kcqe) {
        let Some(grant) = self.grant else { return };
        kcqe.set_qe_self_seq(self.kcq_producer);
        let slot = u64::from(self.kcq_producer % 2048);
        let Some(page) = self.page(cx, self.ring_table(ctx::KCQ_CID), slot / 128) else { return };
        let _ = cx.dma_write(page + slot % 128 * 32, kcqe.as_bytes(), grant);
        self.kcq_producer = self.kcq_producer.wrapping_add(1);
    }

    fn publish(&mut self, cx: &mut DevCx<'_>) {
        let (Some(grant), sb) = (self.grant, self.status_block()) else { return };
        self.index = self.index.wrapping_add(1);
        let _ = cx.publish(sb + SB_CMD, Word::U16(self.kwq_consumer), grant);
        let _ = cx.publish(sb + SB_COMPLETION, Word::U16(self.kcq_producer), grant);
        let _ = cx.publish(sb + SB_INDEX, Word::U16(self.index), grant);
        cx.msi(Vector(0), grant);
    }

    fn fetch_kwqes(&mut self, cx: &mut DevCx<'_>) -> u32 {
        let mut done = 0;
        while self.kwq_consumer != self.kwq_producer && !self.card.borrow().hold_kwq {
            let slot = u64::from(self.kwq_consumer % 512);
            let Some(page) = self.page(cx, self.ring_table(ctx::KWQ_CID), slot / 128) else { break };
            let mut bytes = [0; 32];
            let Some(grant) = self.grant else { break };
            if cx.dma_read(page + slot % 128 * 32, &mut bytes, grant).is_err() {
                break;
            }
            self.kwq_consumer = self.kwq_consumer.wrapping_add(1);
            let kwqe = Kwqe::read_from_bytes(&bytes).unwrap();
            self.on_kwqe(cx, &kwqe);
            done += 1;
        }
        done
    }

    fn on_kwqe(&mut self, cx: &mut DevCx<'_>, kwqe: &Kwqe) {
        let what = u16::from(kwqe.layer().0) << 8 | u16::from(kwqe.opcode());
        self.card.borrow_mut().kwqes.push((what, *kwqe));
        let lost = self.card.borrow().lose.iter().position(|w| *w == what);
        if let Some(at) = lost {
            self.card.borrow_mut().lose.remove(at);
            return;
        }
        // OFFLOAD_CONN2 and INIT1 have no answer of their own; CONNECT2 and 3 belong to CONNECT1.
        let cid = match what {
            op::OFFLOAD => kwqe.view::<IscsiKwqeConnOffload1>().iscsi_conn_id.get(),
            0x601 => {
                let rq = kwqe.view::<IscsiKwqeConnOffload2>().rq_page_table_addr();
                self.complete_offload(cx, rq);
                return;
            }
            op::UPDATE | op::DESTROY => kwqe.view::<IscsiKwqeConnDestroy>().iscsi_cid(),
            op::UPDATE_PG => kwqe.view::<L4KwqUpdatePg>().pg_host_opaque.get() as u16,
            op::OFFLOAD_PG => kwqe.view::<L4KwqOffloadPg>().host_opaque.get() as u16,
            op::UPLOAD_PG => (kwqe.view::<L4KwqUpload>().cid.get() - 0x1000) as u16,
            op::CONNECT => ((kwqe.view::<L4KwqConnectReq1>().cid.get() >> 7) - 0x100) as u16,
            op::RESET | op::CLOSE => ((kwqe.kwqe_info0.get() >> 7) - 0x100) as u16,
            _ => 0,
        };
        let (swallowed, status) = {
            let card = self.card.borrow();
            let status = card.status.get(&what).copied().unwrap_or(0);
            (card.mute || card.swallow.contains(&what), status)
        };
        if status == 0 && !self.card.borrow().mute {
            let groups = &mut self.card.borrow_mut().groups;
            match what {
                op::OFFLOAD_PG => _ = groups.insert(cid),
                op::UPLOAD_PG => _ = groups.remove(&cid),
                _ => {}
            }
        }
        if swallowed || what == op::OFFLOAD {
            return;
        }
        if what == op::DESTROY && status == 0 {
            self.card.borrow_mut().conns.remove(&cid);
        }
        if let Some(answer) = answer(what, cid, status) {
            self.post(cx, answer);
        }
    }

    fn complete_offload(&mut self, cx: &mut DevCx<'_>, rq: u64) {
        let (cid, one) = {
            let card = self.card.borrow();
            let (_, one) = card.kwqes[card.kwqes.len() - 2];
            (one.view::<IscsiKwqeConnOffload1>().iscsi_conn_id.get(), one)
        };
        let one: &IscsiKwqeConnOffload1 = one.view();
        let conn = Conn {
            sq: one.sq_page_table_addr(),
            cq: one.cq_page_table_addr(),
            rq,
            sq_done: 0,
            next: CqSequence::new(128),
            rq_given: hsi::iscsi::rq::RqProducer::INITIAL,
            rq_left: 16,
            rq_slot: 0,
        };
        let (swallowed, status) = {
            let card = self.card.borrow();
            let status = card.status.get(&op::OFFLOAD).copied().unwrap_or(0);
            (card.mute || card.swallow.contains(&op::OFFLOAD), status)
        };
        if status == 0 {
            self.card.borrow_mut().conns.insert(cid, conn);
        }
        if !swallowed && let Some(a) = answer(op::OFFLOAD, cid, status) {
            self.post(cx, a);
        }
    }

    fn fetch_wqes(&mut self, cx: &mut DevCx<'_>, cid: u16, producer: u16) {
        let Some(mut conn) = self.card.borrow().conns.get(&cid).cloned() else { return };
        let Some(grant) = self.grant else { return };
        while conn.sq_done != producer {
            let slot = u64::from(conn.sq_done % 64);
            let Some(page) = self.page(cx, conn.sq, slot / 64) else { break };
            let mut wqe = Sqe { sqe_byte: [0; 64] };
            if cx.dma_read(page + slot * 64, &mut wqe.sqe_byte, grant).is_err() {
                break;
            }
            conn.sq_done = conn.sq_done.wrapping_add(1);
            self.card.borrow_mut().wqes.push((cid, wqe));
            self.card.borrow_mut().conns.insert(cid, conn.clone());
            let sense = self.card.borrow().answer_sense;
            if let (SqOpcode::SCSI_CMD, Some(sense)) = (wqe.opcode(), sense) {
                self.answer_command(cx, cid, &wqe, sense);
                conn = self.card.borrow().conns[&cid].clone();
            }
        }
        self.card.borrow_mut().conns.insert(cid, conn);
    }

    /// Reads or writes every byte of the BD list, then completes with CHECK CONDITION.
    fn answer_command(&mut self, cx: &mut DevCx<'_>, cid: u16, wqe: &Sqe, sense: u16) {
        let c: &CmdRequest = wqe.view();
        let Some(grant) = self.grant else { return };
        let mut left = c.total_data_transfer_length.get() as usize;
        for i in 0..c.num_bds {
            let mut bytes = [0; 16];
            if cx.dma_read(c.bd_list_addr() + 16 * u64::from(i), &mut bytes, grant).is_err() {
                return;
            }
            let bd = IscsiBd::read_from_bytes(&bytes).unwrap();
            let len = usize::from(bd.buffer_length.get()).min(left);
            let mut data = vec![0xa5; len];
            if c.is_write() {
                let _ = cx.dma_read(bd.buffer_addr(), &mut data, grant);
            } else {
                let _ = cx.dma_write(bd.buffer_addr(), &data, grant);
            }
            left -= len;
        }
        let mut response = CmdResponse::default();
        (response.op_code, response.status, response.itt) = (CqOpcode::SCSI_RSP, 2, c.itt);
        response.data_length = U32::new(u32::from(sense));
        // Everything sent so far was received, and as much as the window says may come.
        response.exp_cmd_sn = U32::new(c.cmd_sn.get().wrapping_add(1));
        response.max_cmd_sn = U32::new(c.cmd_sn.get().wrapping_add(self.card.borrow().window));
        if sense > 0 {
            let mut data = vec![0; usize::from(sense)];
            data[..2].copy_from_slice(&(sense - 2).to_be_bytes());
            // Fixed format, ILLEGAL REQUEST; the tag of the command in the information field tells buffers
            // apart.
            data[2] = 0xf0;
            data[4] = 5;
            data[5..9].copy_from_slice(&u32::from(c.itt.raw()).to_be_bytes());
            data[9] = 10;
            self.write_rq(cx, cid, &data);
        }
        self.post_cqe(cx, cid, response.into_element());
    }

    fn write_rq(&mut self, cx: &mut DevCx<'_>, cid: u16, data: &[u8]) {
        let Some(mut conn) = self.card.borrow().conns.get(&cid).cloned() else { return };
        if conn.rq_left == 0 {
            self.card.borrow_mut().rq_underruns += 1;
        }
        if let (Some(page), Some(grant)) = (self.page(cx, conn.rq, 0), self.grant) {
            let _ = cx.dma_write(page + 256 * u64::from(conn.rq_slot), data, grant);
        }
        conn.rq_left = conn.rq_left.saturating_sub(1);
        conn.rq_slot = (conn.rq_slot + 1) % 16;
        self.card.borrow_mut().conns.insert(cid, conn);
    }

    fn post_cqe(&mut self, cx: &mut DevCx<'_>, cid: u16, mut cqe: Cqe) {
        let Some(mut conn) = self.card.borrow().conns.get(&cid).cloned() else { return };
        let Some(grant) = self.grant else { return };
        if cqe.cq_req_sn() == 0 {
            cqe.set_cq_req_sn(conn.next.sn());
        }
        let slot = u64::from(conn.next.slot());
        let Some(page) = self.page(cx, conn.cq, slot / 64) else { return };
        let at = page + slot % 64 * 64;
        let _ = cx.dma_write(at, &cqe.cqe_byte[..60], grant);
        let _ = cx.publish(at + 60, Word::U32(cqe.cq_req_sn()), grant);
        conn.next.advance();
        self.card.borrow_mut().conns.insert(cid, conn);
        if self.card.borrow().swallow.contains(&op::EVENT) {
            return;
        }
        let event =
            IscsiKcqe::new(IscsiKcqeOpcode::CQ_EVENT_NOTIFICATION, cid.into(), CompletionStatus::SUCCESS);
        self.post(cx, event.into_element());
    }

    fn doorbell(&mut self, cx: &mut DevCx<'_>, at: u64, value: u16) {
        let (cid, offset) = ((at - 0x10000) / 256, at % 256);
        self.card.borrow_mut().doorbells.push(at);
        if self.card.borrow().mute {
            return;
        }
        match (cid as u32, offset) {
            (ctx::KWQ_CID, 4) => self.kwq_producer = value,
            (ctx::KCQ_CID, 4) => {}
            (0x100.., 4) => self.fetch_wqes(cx, (cid - 0x100) as u16, value),
            (0x100.., 8) => {
                let cid = (cid - 0x100) as u16;
                if let Some(conn) = self.card.borrow_mut().conns.get_mut(&cid) {
                    let given = hsi::iscsi::rq::RqProducer(value);
                    conn.rq_left += given.since(conn.rq_given, 16);
                    conn.rq_given = given;
                }
            }
            _ => {}
        }
    }

    fn forget(&mut self, cx: &mut DevCx<'_>) {
        cx.host.revoke();
        self.grant = None;
        self.regs.clear();
        self.context.clear();
        (self.kwq_consumer, self.kwq_producer, self.kcq_producer, self.index) = (0, 0, 0, 0);
        self.published = (0, 0);
        let mut card = self.card.borrow_mut();
        card.resets += 1;
        card.conns.clear();
        card.groups.clear();
    }
}

/// The KCQE that answers a KWQE with `status`.
pub(super) fn answer(what: u16, cid: u16, status: u32) -> Option<Kcqe> {
    let iscsi = |op| {
        let mut k = IscsiKcqe::new(op, cid.into(), CompletionStatus(status));
        k.iscsi_conn_context_id = U32::new(ctx::address(0x100 + u32::from(cid)));
        Some(k.into_element())
    };
    let l4 = |op_code| {
        let mut k = L4Kcq::default();
        (k.op_code, k.flags, k.status) = (op_code, L4_FLAGS, U16::new(status as u16));
        k.conn_id = U32::new(cid.into());
        k.pg_host_opaque = U32::new(cid.into());
        k.pg_cid = U32::new(0x1000 + u32::from(cid));
        Some(k.into_element())
    };
    match what {
        op::OFFLOAD => iscsi(IscsiKcqeOpcode::OFFLOAD_CONN),
        op::UPDATE => iscsi(IscsiKcqeOpcode::UPDATE_CONN),
        op::DESTROY => iscsi(IscsiKcqeOpcode::DESTROY_CONN),
        op::INIT => iscsi(IscsiKcqeOpcode::INIT),
        op::UPDATE_PG => l4(L4KcqeOpcode::UPDATE_PG),
        op::OFFLOAD_PG => l4(L4KcqeOpcode::OFFLOAD_PG),
        op::CONNECT => l4(L4KcqeOpcode::CONNECT_COMPLETE),
        op::RESET => l4(L4KcqeOpcode::RESET_COMP),
        op::CLOSE => l4(L4KcqeOpcode::CLOSE_COMP),
        op::UPLOAD_PG => {
            let mut k = L4KcqUploadPg::default();
            (k.op_code, k.flags) = (L4KcqeOpcode::UPLOAD_PG, L4_FLAGS);
            k.pg_cid = U32::new(0x1000 + u32::from(cid));
            Some(k.into_element())
        }
        _ => None,
    }
}

impl PciFunction for Fake {
    fn layout(&self) -> &FunctionLayout {
        &self.layout
    }

    fn read(&mut self, _: &mut DevCx<'_>, _: Bar, at: u64, _: Width) -> u64 {
        let card = self.card.borrow();
        let value = match at as u32 {
            r::MISC_ID => r::MISC_ID_5709_C0,
            r::PCI_SWAP_DIAG0 => r::SWAP_DIAG0_VALUE,
            r::MQ_CONFIG2 => card.mq_config2,
            r::CTX_COMMAND => self.reg(r::CTX_COMMAND) & !r::CTX_COMMAND_MEM_INIT,
            r::PCICFG_REG_WINDOW => {
                let at = self.reg(r::PCICFG_REG_WINDOW_ADDRESS);
                match at {
                    s::SHM_HDR_SIGNATURE => s::SHM_HDR_SIGNATURE_SIG | 1,
                    s::SHM_HDR_ADDR_0 => card.shmem,
                    _ if at == SHMEM + s::DEV_INFO_SIGNATURE => s::DEV_INFO_SIGNATURE_MAGIC,
                    _ if at == SHMEM + s::ISCSI_INITIATOR && card.licensed => s::ISCSI_INITIATOR_EN,
                    _ if at == SHMEM + s::ISCSI_MAX_CONN => card.max_connections << 16,
                    _ => self.window.get(&at).copied().unwrap_or(0),
                }
            }
            at => self.reg(at),
        };
        value.into()
    }

    fn write(&mut self, cx: &mut DevCx<'_>, _: Bar, at: u64, _: Width, value: u64) {
        if matches!(at, 0x10200..0x10300 | 0x11400..0x11500) || at == u64::from(r::RPM_SORT_USER2) {
            return self.card.borrow_mut().ring_writes.push((at, value));
        }
        if at >= 0x10000 {
            return self.doorbell(cx, at, value as u16);
        }
        let (at, value) = (at as u32, value as u32);
        match at {
            r::MISC_COMMAND if value & r::MISC_COMMAND_SW_RESET != 0 => {
                if self.card.borrow().resets_by_register {
                    self.forget(cx);
                }
            }
            r::CTX_CTX_CTRL => {
                let data = self.reg(r::CTX_CTX_DATA);
                let at = value & r::CTX_CTX_CTRL_CTX_ADDR;
                if matches!(at, 0x100..0x180 | 0xa00..0xd00) && at < 0xc80 {
                    self.card.borrow_mut().ring_context.insert(at, data);
                }
                self.context.insert(value & r::CTX_CTX_CTRL_CTX_ADDR, data);
            }
            r::PCICFG_REG_WINDOW => {
                let to = self.reg(r::PCICFG_REG_WINDOW_ADDRESS);
                self.window.insert(to, value);
                if to == SHMEM + s::DRV_MB && self.card.borrow().firmware {
                    self.window.insert(SHMEM + s::FW_MB, value & s::DRV_MSG_SEQ);
                }
            }
            r::PCICFG_INT_ACK_CMD => self.card.borrow_mut().acked = value as u16,
            r::HC_STATUS_ADDR_L => {
                self.grant = Some(cx.host.grant());
                self.regs.insert(at, value);
            }
            _ => {
                self.regs.insert(at, value);
            }
        }
    }

    fn config_read(&mut self, _: &mut DevCx<'_>, _: u16) -> u32 {
        0
    }

    fn config_write(&mut self, _: &mut DevCx<'_>, _: u16, _: u32, _: u32) {}

    fn step(&mut self, cx: &mut DevCx<'_>, _: Budget) -> Progress {
        let mut done = self.fetch_kwqes(cx);
        let (send, cqes) = {
            let mut card = self.card.borrow_mut();
            (core::mem::take(&mut card.send), core::mem::take(&mut card.send_cqes))
        };
        done += (send.len() + cqes.len()) as u32;
        send.into_iter().for_each(|k| self.post(cx, k));
        cqes.into_iter().for_each(|(cid, cqe)| self.post_cqe(cx, cid, cqe));
        let ring = self.card.borrow_mut().ring_index.take();
        if let (Some((tx, rx)), Some(grant)) = (ring, self.grant) {
            let _ = cx.publish(self.status_block() + SB_TX2, Word::U16(tx), grant);
            let _ = cx.publish(self.status_block() + SB_RX2, Word::U16(rx), grant);
            self.publish(cx);
            done += 1;
        }
        let now = (self.kcq_producer, self.kwq_consumer);
        if self.published != now && !self.card.borrow().mute {
            self.published = now;
            self.publish(cx);
        }
        Progress { done, next: None }
    }

    fn reset(&mut self, cx: &mut DevCx<'_>, _: ResetKind) -> ResetReport {
        self.forget(cx);
        ResetReport::default()
    }
}
