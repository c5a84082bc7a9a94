//! Service of the kernel completion queue: who a completion or event is for.

use bus::actor::Cx;
use bus::pci::Platform;
use bus::trace::EventKind;
use hsi::kernel::kcq::{IscsiKcqe, IscsiKcqeOpcode, Kcqe};
use hsi::kernel::kwq::Layer;
use hsi::kernel::l4::{L4Kcq, L4KcqUploadPg, L4KcqeOpcode};

use super::Adapter;
use crate::bnx2i::{PathGroup, Phase};
use crate::config::MAX_CONNECTIONS;
use crate::error::{Cause, status};
use crate::l2;

impl<P: Platform> Adapter<P> {
    /// Takes interrupts and services the KCQ until it is empty or the budget is spent; returns the entries
    /// done.
    pub(super) fn service_kcq(&mut self, cx: &mut Cx<'_>, budget: u32) -> u32 {
        let interrupts = self.platform.take_interrupts();
        let mut done = 0;
        loop {
            let Some(chip) = &self.chip else { return done };
            let (index, producer) = (chip.memory.index(), chip.memory.kcq_producer());
            self.watch_ring();
            let Some(chip) = &mut self.chip else { return done };
            if !chip.queues.has_work(producer) || done >= budget {
                if !interrupts.is_empty() || done > 0 {
                    l2::ack(&mut self.platform, cx, index);
                }
                return done;
            }
            let mut kcqes = core::mem::take(&mut self.kcqes);
            let collected = chip.queues.collect(&mut self.platform, cx, producer, &mut kcqes);
            for kcqe in &kcqes {
                self.on_kcqe(cx, kcqe);
            }
            done += kcqes.len() as u32;
            let idle = kcqes.is_empty();
            self.kcqes = kcqes;
            if collected.is_err() {
                // What the chip publishes makes no sense any more.
                self.counters.stale_events += 1;
                self.reset_wanted = true;
                return done;
            }
            if idle {
                // The rest of a group is still on its way, and needs an interrupt to be noticed.
                if !interrupts.is_empty() || done > 0 {
                    l2::ack(&mut self.platform, cx, index);
                }
                return done;
            }
        }
    }

    fn on_kcqe(&mut self, cx: &mut Cx<'_>, kcqe: &Kcqe) {
        let what = u64::from(kcqe.opcode()) | u64::from(kcqe.layer().0) << 8;
        cx.event(EventKind::Kcqe, what, u64::from(kcqe.kcqe_info0.get()));
        match kcqe.layer() {
            Layer::ISCSI => self.on_iscsi_kcqe(cx, kcqe.view()),
            Layer::L4 => {
                let l4: &L4Kcq = kcqe.view();
                match l4.op_code {
                    L4KcqeOpcode::UPLOAD_PG => {
                        let pg = kcqe.view::<L4KcqUploadPg>().pg_cid.get();
                        let holder = self.endpoints().find(|ep| ep.group == PathGroup::Uploading(pg));
                        match holder.map(|ep| ep.guard.cid()) {
                            Some(cid) => self.on_upload(cx, cid),
                            None => self.stale(cx, 14, u16::MAX),
                        }
                    }
                    L4KcqeOpcode::OFFLOAD_PG | L4KcqeOpcode::UPDATE_PG => {
                        self.on_l4_of(cx, l4.pg_host_opaque.get(), l4);
                    }
                    _ => self.on_l4_of(cx, l4.conn_id.get(), l4),
                }
            }
            // Layer 2: completions of the helper's ring; nobody waits for them here.
            Layer::L2 => {}
            _ => self.stale(cx, kcqe.opcode(), u16::MAX),
        }
    }

    fn on_l4_of(&mut self, cx: &mut Cx<'_>, id: u32, kcqe: &L4Kcq) {
        match u16::try_from(id) {
            Ok(cid) if cid < MAX_CONNECTIONS => self.on_l4(cx, cid, kcqe),
            _ => self.stale(cx, kcqe.op_code.0, u16::MAX),
        }
    }

    fn on_iscsi_kcqe(&mut self, cx: &mut Cx<'_>, kcqe: &IscsiKcqe) {
        let status = kcqe.status();
        if kcqe.op_code == IscsiKcqeOpcode::INIT {
            return self.on_init(cx, status);
        }
        let cid = match u16::try_from(kcqe.iscsi_conn_id.get()) {
            Ok(cid) if self.ep(cid).is_some() => cid,
            _ => return self.stale(cx, kcqe.op_code.0, u16::MAX),
        };
        match kcqe.op_code {
            IscsiKcqeOpcode::OFFLOAD_CONN => {
                self.on_offload(cx, cid, status, kcqe.iscsi_conn_context_id.get());
            }
            IscsiKcqeOpcode::UPDATE_CONN => self.on_update(cx, cid, status),
            IscsiKcqeOpcode::DESTROY_CONN => self.on_destroy(cx, cid, status),
            IscsiKcqeOpcode::CQ_EVENT_NOTIFICATION => self.notify(cid),
            IscsiKcqeOpcode::ISCSI_ERROR => self.on_iscsi_error(cx, cid, status.0),
            IscsiKcqeOpcode::TCP_ERROR => {
                let Some(ep) = self.ep(cid) else { return };
                ep.latched.tcp_error.get_or_insert(status.0);
                if (Phase::Connected..=Phase::Full).contains(&ep.phase) {
                    self.fail_endpoint(cx, cid, Cause::TcpError(status.0));
                }
            }
            _ => self.stale(cx, kcqe.op_code.0, cid),
        }
    }

    /// A protocol violation that the card saw: a warning is counted once per status, an error ends the
    /// connection.
    fn on_iscsi_error(&mut self, cx: &mut Cx<'_>, cid: u16, code: u32) {
        let warning = status::is_warning(self.config.warning_mask, code);
        let Some(ep) = self.ep(cid) else { return };
        if warning {
            if ep.warned >> (code & 63) & 1 == 0 {
                ep.warned |= 1 << (code & 63);
                self.counters.warnings += 1;
            }
        } else if (Phase::Connected..=Phase::Full).contains(&ep.phase) {
            self.fail_endpoint(cx, cid, Cause::IscsiError(code));
        }
    }

    /// Nothing may wait for an interrupt that was lost: looks at the card and at all connections.
    pub(super) fn watchdog(&mut self, cx: &mut Cx<'_>) {
        if self.chip.is_none() {
            return;
        }
        self.timers.arm(super::timers::TimerKey::Watchdog, cx.now + self.config.deadlines.watchdog);
        self.check_presence(cx);
        for cid in 0..self.eps.len() as u16 {
            if self.ep(cid).is_some_and(|ep| ep.qp.has_completion() && !ep.phase.is_going()) {
                self.notify(cid);
            }
        }
    }
}
