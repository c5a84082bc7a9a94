//! The kernel queues themselves: wrap, full, doorbells and descriptions that make no sense, defects.

use std::time::Duration;

use bus::mem::DmaBuf;
use hsi::View;
use hsi::bcm5709::pte::IscsiPte;
use hsi::bcm5709::status_block::{STATUS_ATTN_BITS_CMD_PROCESSOR_ABORT, STATUS_ATTN_BITS_COMPLETION_ABORT};
use hsi::bcm5709::{ctx, doorbell, regs};
use hsi::iscsi::bits::{Itt, TaskType};
use hsi::iscsi::sq::CleanupRequest;

use super::host::{Conn, Host, connect, init};
use crate::config::ChipConfig;
use crate::fault::{FaultPoint, Trigger};

fn started(config: ChipConfig, kcq_pages: usize) -> Host {
    let mut h = Host::with_kcq(config, kcq_pages);
    h.reset_handshake();
    h.start();
    h
}

#[test]
fn both_rings_wrap_and_the_sequence_counts_on() {
    let mut h = started(ChipConfig::default(), 1);
    let mut sequence = 0;
    // 1500 INITs: 3000 KWQEs in a ring of 512, 1500 KCQEs in a ring of 128; the indexes are never masked.
    for _ in 0..1500 / 30 {
        (0..30).for_each(|_| h.post(&init(64, 128)));
        h.run();
        for e in h.reap() {
            assert_eq!((e.opcode(), e.qe_self_seq()), (0x14, sequence));
            sequence += 1;
        }
    }
    assert_eq!((sequence, h.producer(), h.status.load16(48)), (1500, 1500, 3000));
    assert_eq!(h.slot.borrow().violations(), []);
}

#[test]
fn indexes_wrap_at_sixteen_bits() {
    let mut h = started(ChipConfig::default(), 1);
    for _ in 0..70_000 / 100 {
        (0..50).for_each(|_| h.post(&init(64, 128)));
        h.run();
        assert_eq!(h.reap().len(), 50);
    }
    let total = 700_u32 * 100;
    assert_eq!(h.status.load16(48), total as u16);
}

#[test]
fn a_host_that_does_not_consume_stops_the_chip_and_loses_nothing() {
    let config = ChipConfig { kcqe_backlog: 16, ..ChipConfig::default() };
    let mut h = started(config, 1);
    for _ in 0..2 {
        (0..128).for_each(|_| h.post(&init(64, 128)));
        h.run();
    }
    // 256 answers are due: 128 fill the ring, 15 or 16 wait, and the rest of the KWQEs is not executed yet.
    assert_eq!(h.producer(), 128);
    let executed = h.card.with(|c| c.counters().kwqes);
    assert!((2 * 128..2 * 146).contains(&executed), "{executed} KWQEs");
    assert!(h.card.with(|c| c.counters().kcq_stalls) > 0);
    let before: Vec<_> = h.peek();
    h.run();
    assert_eq!(h.peek(), before, "nothing that the host has not consumed is overwritten");
    let mut seen = 0;
    while seen < 256 {
        let got = h.reap();
        assert!(!got.is_empty(), "the chip goes on");
        for e in got {
            assert_eq!(usize::from(e.qe_self_seq()), seen);
            seen += 1;
        }
    }
    assert_eq!(h.card.with(|c| c.counters().kwqes), 512);
}

/// Posts the `n`th entry of an SQ: the CLEANUP of a task that does not exist, which completes at once.
fn post_cleanup(h: &mut Host, sq: &DmaBuf, context: u32, n: u16) {
    let mut request = CleanupRequest::blank();
    request.itt = Itt::new(n, TaskType::READ);
    sq.write(64 * usize::from(n), request.into_element().bytes());
    h.write16(doorbell::connection(context >> 7, 0) + doorbell::CNIC_SEND_DOORBELL, n + 1);
    h.run();
}

#[test]
fn one_cq_event_of_a_connection_waits_and_no_more() {
    let mut h = Host::with_kcq(ChipConfig::default(), 1);
    h.reset_handshake();
    h.start();
    h.submit(&init(64, 128));
    h.reap();
    let (offload, buffers) = h.offload_kwqes(0);
    h.submit(&offload);
    let context = h.reap_iscsi()[0].iscsi_conn_context_id.get();
    let pg = h.offload_pg(0).pg_cid.get();
    h.submit(&connect(Conn { id: 0, context, pg }));
    assert_eq!(h.answers(), [(0x438, 0)]);
    (0..128).for_each(|_| h.post(&init(64, 128)));
    h.run();
    // The ring is full. Three CLEANUPs of unknown tasks make three CQEs, each with an event of its own.
    for n in 0..3_u16 {
        post_cleanup(&mut h, &buffers[0], context, n);
    }
    assert_eq!(h.card.with(|c| (c.engine().counters().cqes, c.counters().cq_events_joined)), (3, 2));
    assert_eq!(h.reap().len(), 128);
    assert_eq!(h.answers(), [(0x620, 0)], "one event for all of them");
    post_cleanup(&mut h, &buffers[0], context, 3);
    assert_eq!(h.answers(), [(0x620, 0)], "and the next CQE has its own again");
}

#[test]
fn groups_end_with_what_is_written_together() {
    let mut h = started(ChipConfig { kcqe_group: 3, ..ChipConfig::default() }, 1);
    (0..5).for_each(|_| h.post(&init(64, 128)));
    h.run();
    let next: Vec<bool> = h.reap().iter().map(|e| e.next()).collect();
    assert_eq!(next, [true, true, false, true, false]);
}

#[test]
fn doorbells_that_no_ring_can_have_are_ignored() {
    let mut h = started(ChipConfig::default(), 1);
    let (kwq, kcq) = (doorbell::mailbox(ctx::KWQ_CID) + 4, doorbell::mailbox(ctx::KCQ_CID) + 4);
    h.write16(kwq, 513);
    h.write16(kcq, 1);
    h.run();
    assert_eq!(h.card.with(|c| c.counters().bad_doorbells), 2);
    h.submit(&init(64, 128));
    assert_eq!(h.answers(), [(0x614, 0)]);
    h.post(&init(64, 128));
    h.write16(kwq, h.kwq_producer - 1);
    h.run();
    assert_eq!(h.answers(), [(0x614, 0)], "an index that goes back is ignored");
    assert_eq!(h.card.with(|c| c.counters().bad_doorbells), 3);
}

#[test]
fn a_doorbell_before_the_go_word_is_lost_and_one_right_after_it_is_not() {
    let mut h = Host::new(ChipConfig::default());
    h.reset_handshake();
    h.write16(doorbell::mailbox(ctx::KWQ_CID) + 4, 2);
    h.start();
    assert_eq!(h.card.with(|c| (c.counters().kwqes, c.counters().bad_doorbells)), (0, 1));
    h.set_indirect(regs::CP_DOORBELL_ENABLE, 0);
    h.set_indirect(regs::CP_DOORBELL_ENABLE, 1);
    // The chip has not even read the page table yet.
    h.submit(&init(64, 128));
    assert_eq!(h.answers(), [(0x614, 0)]);
}

#[test]
fn a_stopped_ring_keeps_its_indexes_until_it_starts_again() {
    let mut h = started(ChipConfig::default(), 1);
    h.submit(&init(64, 128));
    h.set_indirect(regs::CP_DOORBELL_ENABLE, 0);
    h.set_indirect(regs::COM_DOORBELL_ENABLE, 0);
    h.write(regs::HC_COMMAND, regs::HC_COMMAND_COAL_NOW);
    h.run();
    assert_eq!((h.producer(), h.status.load16(48)), (1, 2));
    h.start();
    assert_eq!(h.status.load16(48), 0, "and `start` saw that the producer is 0");
    h.submit(&init(64, 128));
    assert_eq!(h.reap()[0].qe_self_seq(), 0);
}

#[test]
fn contexts_that_describe_no_ring_do_not_start_one() {
    let mut h = Host::new(ChipConfig::default());
    h.reset_handshake();
    for (offset, value) in [
        (ctx::L5_KRNLQ_FLAGS, 0),
        (ctx::L5_KRNLQ_PGTBL_NPAGES, 0),
        (ctx::L5_KRNLQ_PGTBL_NPAGES, 3),
        (ctx::L5_KRNLQ_PGTBL_NPAGES, 0xffff),
        (ctx::L5_KRNLQ_FLAGS, ctx::KRNLQ_TYPE_TYPE_KRNLQ | 0xf),
    ] {
        let table = h.kwq.table.addr();
        h.describe(ctx::KWQ_CID, table, 4);
        h.context_write(ctx::KWQ_CID, offset, value);
        h.set_indirect(regs::CP_DOORBELL_ENABLE, 1);
        h.run();
    }
    assert_eq!(h.card.with(|c| c.counters().bad_rings), 5);
    h.start();
    h.submit(&init(64, 128));
    assert_eq!(h.answers(), [(0x614, 0)], "a good description still works");
}

#[test]
fn rings_outside_memory_stop_with_an_attention() {
    let cases = [
        (ctx::KWQ_CID, STATUS_ATTN_BITS_CMD_PROCESSOR_ABORT),
        (ctx::KCQ_CID, STATUS_ATTN_BITS_COMPLETION_ABORT),
    ];
    for (cid, attention) in cases {
        // The page table is nowhere.
        let mut h = started(ChipConfig::default(), 1);
        let go = if cid == ctx::KWQ_CID { regs::CP_DOORBELL_ENABLE } else { regs::COM_DOORBELL_ENABLE };
        h.set_indirect(go, 0);
        h.describe(cid, 0x66_0000_0000, 4);
        h.set_indirect(go, 1);
        h.run();
        assert_eq!(h.status.load32(0) & attention, attention);
        h.submit(&init(64, 128));
        assert!(h.reap().is_empty());

        // The page table is there, its pages are not.
        let mut h = Host::new(ChipConfig::default());
        h.reset_handshake();
        h.start();
        let ring = if cid == ctx::KWQ_CID { &h.kwq } else { &h.kcq };
        (0..16).for_each(|i| ring.table.write(8 * i, IscsiPte::new(0x77_0000_0000).bytes()));
        h.set_indirect(go, 0);
        h.set_indirect(go, 1);
        h.run();
        h.kwq_producer = if cid == ctx::KWQ_CID { 0 } else { h.kwq_producer };
        h.submit(&init(64, 128));
        assert_eq!(h.status.load32(0) & attention, attention);
        assert!(h.reap().is_empty());
        assert_eq!(h.card.with(|c| c.counters().ring_faults), 1, "it stops at the first");

        // A reset mends it.
        h.reset_handshake();
        h.start();
        h.submit(&init(64, 128));
        assert_eq!(h.answers(), [(0x614, 0)]);
    }
}

#[test]
fn defects_swallow_and_delay_what_they_are_told() {
    let mut h = started(ChipConfig::default(), 1);
    let init_kcqe = Trigger { operand: Some(0x614), ..Trigger::ONCE };
    h.faults.arm(FaultPoint::SwallowKcqe, init_kcqe);
    h.submit(&init(64, 128));
    h.submit(&init(64, 128));
    assert_eq!(h.answers().len(), 1);
    assert_eq!(h.faults.fired(FaultPoint::SwallowKcqe), 1);

    h.faults.arm(FaultPoint::SwallowKwqe, Trigger { operand: Some(0x605), ..Trigger::ONCE });
    h.submit(&init(64, 128));
    h.submit(&init(64, 128));
    assert_eq!(h.answers(), [(0x614, 1), (0x614, 0)], "INIT1 without INIT2, then a sound pair");

    h.faults.arm(FaultPoint::DelayKcqe, init_kcqe);
    h.submit(&init(64, 128));
    h.submit(&init(64, 128));
    assert!(h.reap().is_empty(), "the second one waits behind the first");
    h.now += Duration::from_millis(98);
    h.run();
    assert!(h.reap().is_empty());
    h.now += Duration::from_millis(2);
    h.run();
    assert_eq!(h.answers().len(), 2);
    assert_eq!(h.faults.fired(FaultPoint::DelayKcqe), 1);
}
