use super::*;
use crate::block::{MAX_BDS, RETRY_PAUSE};
use crate::user::UserBuf;
use iscsi::scsi::{Sense, SenseKey, Status};

const DISK: Geometry = Geometry { block_size: 512, blocks: 1 << 20, read_only: false, max_transfer: 0 };
const BUF: UserBuf = UserBuf { index: 0, generation: 0, len: u32::MAX };
const NOW: Instant = Instant::ZERO;
const LOST: ConnFailure = ConnFailure::ConnFailed;

struct Bench {
    q: BlockQueue,
    next: u64,
}

impl Bench {
    fn new(limit: usize, commands: u16) -> Self {
        Self { q: BlockQueue::new(limit, commands), next: 0 }
    }

    fn submit(&mut self, op: Op, lba: u64, lens: &[usize]) -> Result<u64, Refusal> {
        self.submit_to(op, lba, lens, &DISK)
    }

    fn submit_to(&mut self, op: Op, lba: u64, lens: &[usize], disk: &Geometry) -> Result<u64, Refusal> {
        let data: Vec<Extent> = lens.iter().map(|&len| Extent { buf: BUF, offset: 0, len }).collect();
        let ticket = self.next;
        self.next += 1;
        let request = Request { lun: Lun::default(), op, lba, data: &data };
        self.q.submit(Ticket(ticket), &request, disk, NOW).map(|()| ticket)
    }

    fn next(&mut self) -> Option<Command> {
        self.q.next_command(NOW, |_| true)
    }

    fn good(&mut self, c: &Command) {
        assert!(self.q.complete(c.id, Outcome::GOOD, NOW));
    }

    fn done(&mut self) -> Option<(u64, Result<(), BlockError>)> {
        self.q.reap().map(|d| (d.ticket.0, d.result))
    }
}

fn lba_of(c: &Command) -> u64 {
    match Cdb::parse(&c.cdb) {
        Ok(Cdb::Read(t) | Cdb::Write(t)) => {
            assert_eq!(t.blocks * 512, c.bytes);
            t.lba
        }
        other => panic!("{other:?}"),
    }
}

fn check_condition(sense: Sense) -> Outcome {
    Outcome::Answered { response: 0, status: Status::CHECK_CONDITION, sense: Some(sense), residual: 0 }
}

#[test]
fn a_megabyte_is_split_and_completes_once_after_the_last_command() {
    let mut b = Bench::new(8, 64);
    b.submit(Op::Write, 100, &[1 << 20]).unwrap();
    let commands: Vec<Command> = core::iter::from_fn(|| b.next()).collect();
    assert_eq!(commands.len(), 17);
    assert_eq!(lba_of(&commands[1]), 100 + 127);
    assert!(commands.iter().all(|c| c.direction == Direction::Write && c.bytes <= MAX_COMMAND_BYTES));
    assert_eq!(commands.iter().map(|c| c.bytes).sum::<u32>(), 1 << 20);
    let (last, others) = commands.split_last().unwrap();
    others.iter().rev().for_each(|c| b.good(c));
    assert_eq!(b.done(), None);
    b.good(last);
    assert_eq!((b.done(), b.done()), (Some((0, Ok(()))), None));
    assert!(!b.q.complete(last.id, Outcome::GOOD, NOW), "a duplicate completion finds nothing");
    assert_eq!((b.q.counters.stale, b.q.live()), (1, 0));
}

#[test]
fn pieces_cover_the_data_in_order() {
    let mut b = Bench::new(8, 64);
    b.submit(Op::Read, 0, &[1000; 64]).unwrap();
    let mut total = 0;
    while let Some(c) = b.next() {
        let pieces: Vec<Extent> = b.q.pieces(c.id).collect();
        assert!(pieces.len() <= MAX_BDS);
        assert_eq!(pieces.iter().map(|p| p.len as u32).sum::<u32>(), c.bytes);
        total += c.bytes;
    }
    assert_eq!(total, 64_000);
}

#[test]
fn zero_length_completes_without_a_command_and_a_flush_needs_one() {
    let mut b = Bench::new(8, 64);
    b.submit(Op::Write, 0, &[]).unwrap();
    assert_eq!(b.done(), Some((0, Ok(()))));
    b.submit(Op::Flush, 0, &[]).unwrap();
    assert_eq!(b.done(), None);
    let c = b.next().unwrap();
    assert_eq!((c.cdb[0], c.direction, c.bytes), (0x35, Direction::None, 0));
    b.good(&c);
    assert_eq!(b.done(), Some((1, Ok(()))));
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers() {
    let mut b = Bench::new(8, 64);
    let end = DISK.blocks;
    assert!(b.submit(Op::Read, end - 1, &[512]).is_ok());
    assert_eq!(
        b.submit(Op::Read, end - 1, &[1024]),
        Err(Refusal::OutOfRange { lba: end - 1, blocks: 2, capacity: end })
    );
    assert!(matches!(b.submit(Op::Read, u64::MAX, &[512]), Err(Refusal::OutOfRange { .. })));
    assert_eq!(b.submit(Op::Read, 0, &[700]), Err(Refusal::Misaligned { bytes: 700, block_size: 512 }));
    assert_eq!(
        b.submit(Op::Read, 0, &[(16 << 20) + 512]),
        Err(Refusal::TooLong { bytes: (16 << 20) + 512, limit: 16 << 20 })
    );
    assert_eq!(b.submit(Op::Read, 0, &[2; 256]), Err(Refusal::TooScattered));
    assert_eq!(b.submit(Op::Read, 0, &[512; 257]), Err(Refusal::TooManyExtents(257)));
    let scsi = Op::Scsi { cdb: [0x12; 16], write: false };
    assert_eq!(b.submit(scsi, 0, &[65_025]), Err(Refusal::TooLong { bytes: 65_025, limit: 65_024 }));
    let protected = Geometry { read_only: true, ..DISK };
    assert_eq!(b.submit_to(Op::Write, 0, &[512], &protected), Err(Refusal::WriteProtected));
    assert_eq!((b.q.live(), b.q.counters.requests), (1, 1));
}

#[test]
fn the_queue_is_bounded_until_it_is_reaped() {
    let mut b = Bench::new(2, 64);
    b.submit(Op::Read, 0, &[512]).unwrap();
    b.submit(Op::Read, 0, &[]).unwrap();
    assert_eq!(b.submit(Op::Read, 0, &[]), Err(Refusal::QueueFull { limit: 2 }), "completed, not reaped");
    assert_eq!(b.q.counters.refused, 1);
    assert!(b.done().is_some());
    b.submit(Op::Read, 0, &[512]).unwrap();
}

#[test]
fn commands_are_bounded_and_the_rest_waits() {
    let mut b = Bench::new(8, 4);
    b.submit(Op::Read, 0, &[1 << 20]).unwrap();
    let first: Vec<Command> = core::iter::from_fn(|| b.next()).collect();
    assert_eq!((first.len(), b.q.issued()), (4, 4));
    b.good(&first[0]);
    assert_eq!(lba_of(&b.next().unwrap()), 4 * 127);
}

#[test]
fn the_first_error_wins_and_stops_the_rest() {
    let mut b = Bench::new(8, 2);
    b.submit(Op::Write, 0, &[1 << 20]).unwrap();
    let (one, two) = (b.next().unwrap(), b.next().unwrap());
    b.q.complete(two.id, check_condition(Sense::WRITE_ERROR), NOW);
    assert_eq!(b.next(), None, "nothing more of it");
    assert_eq!(b.done(), None, "the card still has the first command");
    b.q.complete(one.id, Outcome::Failed(BlockError::TargetFailure(1)), NOW);
    assert_eq!(b.done(), Some((0, Err(BlockError::Sense(Sense::WRITE_ERROR)))));
    assert_eq!((b.q.live(), b.q.issued()), (0, 0));
}

#[test]
fn unit_attention_is_repeated_at_once_and_busy_after_a_pause() {
    let mut b = Bench::new(8, 4);
    b.submit(Op::Read, 7, &[512]).unwrap();
    let c = b.next().unwrap();
    b.q.complete(c.id, check_condition(Sense::POWER_ON), NOW);
    let c = b.next().unwrap();
    assert_eq!(lba_of(&c), 7);
    let busy = Outcome::Answered { response: 0, status: Status::BUSY, sense: None, residual: 0 };
    b.q.complete(c.id, busy, NOW);
    assert_eq!((b.next(), b.q.deadline(NOW)), (None, Some(NOW + RETRY_PAUSE)));
    let later = NOW + RETRY_PAUSE;
    assert_eq!(b.q.deadline(later), None, "a ready command is no deadline");
    let c = b.q.next_command(later, |_| true).unwrap();
    assert!(b.q.complete(c.id, Outcome::GOOD, later));
    assert_eq!((b.done(), b.q.counters.retried), (Some((0, Ok(()))), 2));
}

#[test]
fn after_recovery_old_commands_go_first_in_their_order() {
    let mut b = Bench::new(8, 8);
    for lba in [0, 1000, 2000] {
        b.submit(Op::Write, lba, &[65_536]).unwrap();
    }
    let commands: Vec<Command> = core::iter::from_fn(|| b.next()).collect();
    b.submit(Op::Write, 3000, &[512]).unwrap();
    for c in [5, 0, 3, 1, 4, 2].map(|i| commands[i]) {
        assert!(b.q.requeue(c.id, LOST, true, NOW));
    }
    let again: Vec<u64> = core::iter::from_fn(|| b.next()).map(|c| lba_of(&c)).collect();
    assert_eq!(again, [0, 127, 1000, 1127, 2000, 2127, 3000]);
    assert_eq!(b.q.counters.requeued, 6);
}

/// S4: had the newer write gone out and completed while the older one was under way, the older one's
/// repetition after recovery would bury it.
#[test]
fn a_write_waits_for_an_older_one_that_overlaps_it() {
    let mut b = Bench::new(8, 8);
    b.submit(Op::Write, 10, &[1024]).unwrap();
    b.submit(Op::Write, 11, &[1024]).unwrap();
    b.submit(Op::Read, 11, &[512]).unwrap();
    let old = b.next().unwrap();
    assert_eq!(b.next(), None);
    assert_eq!(b.q.counters.overlaps, 1);
    let first = old.id;
    assert!(b.q.requeue(first, LOST, true, NOW));
    let old = b.next().unwrap();
    assert_eq!(lba_of(&old), 10, "the older first, again");
    assert!(!b.q.complete(first, Outcome::GOOD, NOW), "a late completion of the first issue is stale");
    assert_eq!(b.next(), None);
    b.good(&old);
    assert_eq!(lba_of(&b.next().unwrap()), 11);
    assert_eq!(b.next().map(|c| c.direction), Some(Direction::Read), "a read overlaps as it likes");
}

#[test]
fn overlaps_are_found_wherever_a_write_lies() {
    // Around a boundary of the map of writes, and far away where it folds.
    for (first, second, overlap) in [
        (126, 128, true),
        (126, 126 + 4, false),
        (128, 127, true),
        (0, 1 << 15, false),
        (1 << 15, (1 << 15) + 3, true),
    ] {
        let mut b = Bench::new(8, 8);
        b.submit(Op::Write, first, &[2048]).unwrap();
        b.submit(Op::Write, second, &[2048]).unwrap();
        let old = b.next().unwrap();
        let young = b.next();
        assert_eq!(young.is_none(), overlap, "{first} and {second}");
        b.good(&old);
        let young = young.or_else(|| b.next()).unwrap();
        b.good(&young);
        b.submit(Op::Write, first, &[2048]).unwrap();
        assert!(b.next().is_some(), "nothing is left in the map");
    }
}

#[test]
fn neighbours_and_other_units_do_not_overlap() {
    let mut b = Bench::new(8, 8);
    b.submit(Op::Write, 10, &[1024]).unwrap();
    b.submit(Op::Write, 12, &[512]).unwrap();
    b.submit(Op::Write, 9, &[512]).unwrap();
    let other = Lun::from_number(1).unwrap();
    let data = [Extent { buf: BUF, offset: 0, len: 512 }];
    b.q.submit(Ticket(9), &Request { lun: other, op: Op::Write, lba: 10, data: &data }, &DISK, NOW).unwrap();
    assert_eq!(core::iter::from_fn(|| b.next()).count(), 4);
}

#[test]
fn a_callers_own_command_is_never_repeated() {
    let mut b = Bench::new(8, 8);
    let mut cdb = [0; 16];
    cdb[0] = 0x12;
    b.submit(Op::Scsi { cdb, write: false }, 0, &[255]).unwrap();
    b.submit(Op::Scsi { cdb, write: false }, 0, &[255]).unwrap();
    let (one, two) = (b.next().unwrap(), b.next().unwrap());
    assert_eq!((one.cdb, one.bytes, one.direction), (cdb, 255, Direction::Read));
    b.q.requeue(one.id, LOST, true, NOW);
    assert_eq!(b.done(), Some((0, Err(BlockError::Transport(LOST)))));
    let short = Outcome::Answered { response: 0, status: Status::GOOD, sense: None, residual: 219 };
    b.q.complete(two.id, short, NOW);
    assert_eq!(b.q.reap().map(|d| (d.result, d.residual)), Some((Ok(()), 219)));
}

#[test]
fn fail_all_fails_each_request_once_and_leaves_the_card_its_commands() {
    let mut b = Bench::new(8, 2);
    let gone = BlockError::RecoveryTimedOut { seconds: 120 };
    for lba in [0, 1000, 2000] {
        b.submit(Op::Write, lba, &[65_536]).unwrap();
    }
    let (one, two) = (b.next().unwrap(), b.next().unwrap());
    b.q.requeue(two.id, LOST, true, NOW);
    b.q.fail_all(gone);
    assert_eq!((b.done(), b.done(), b.done()), (Some((1, Err(gone))), Some((2, Err(gone))), None));
    assert_eq!(b.next(), None);
    assert!(
        b.q.requeue(one.id, LOST, true, NOW),
        "the proof arrives: nothing is repeated for a failed request"
    );
    assert_eq!((b.done(), b.next(), b.q.live()), (Some((0, Err(gone))), None, 0));
    b.submit(Op::Write, 0, &[512]).unwrap();
    assert!(b.next().is_some(), "the queue lives on");
}

#[test]
fn a_closed_unit_and_a_full_ring_hold_commands_back() {
    let mut b = Bench::new(8, 8);
    b.submit(Op::Read, 5, &[512]).unwrap();
    assert_eq!(b.q.next_command(NOW, |_| false), None);
    let c = b.next().unwrap();
    b.q.unissue(c.id, NOW);
    assert_eq!((b.q.issued(), b.q.counters.commands), (0, 0));
    assert!(!b.q.complete(c.id, Outcome::GOOD, NOW));
    assert_eq!(b.q.next_command(NOW, |_| false), None);
    assert_eq!(b.next().map(|c| lba_of(&c)), Some(5));
}

#[test]
fn steady_state_reuses_its_slots() {
    let mut b = Bench::new(4, 4);
    for round in 0..1000 {
        b.submit(Op::Write, round % 64, &[512, 512]).unwrap();
        let c = b.next().unwrap();
        b.good(&c);
        assert!(b.done().is_some());
    }
    assert_eq!((b.q.reqs.len(), b.q.free_cmds.len()), (1, 4));
}

/// A small generator, so that a failing seed is a number to replay.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Any schedule of submissions, executions at the target, answers, losses of the connection and timeouts:
/// each ticket completes exactly once, a write that was reported good is on the medium or behind a newer one,
/// an older write never covers a newer one (S4), and nothing is left over.
#[test]
fn any_schedule_keeps_the_promises() {
    const BLOCKS: usize = 48;
    for seed in 1..=200u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut b = Bench::new(12, 6);
        let disk = Geometry { blocks: BLOCKS as u64, max_transfer: 3, ..DISK };
        // Ticket numbers grow with submission, so they stand for the data written.
        let mut medium = [None::<u64>; BLOCKS];
        let (mut live, mut at_card) = (Vec::<(u64, u64, u64)>::new(), Vec::<(Command, u64)>::new());
        let mut now = NOW;
        for step in 0..600u64 {
            now += core::time::Duration::from_millis(dice.below(60));
            match dice.below(if step < 400 { 10 } else { 8 }) {
                0 | 1 => {
                    while let Some(c) = b.q.next_command(now, |_| true) {
                        // The buffer's index is the ticket of its request: the data written.
                        let owner = b.q.pieces(c.id).next().map(|p| u64::from(p.buf.index));
                        let owner = owner.expect("a command of an unfinished request");
                        at_card.push((c, owner));
                    }
                }
                2 | 3 if !at_card.is_empty() => {
                    let (c, owner) = at_card[dice.below(at_card.len() as u64) as usize];
                    for block in lba_of(&c)..lba_of(&c) + u64::from(c.bytes / 512) {
                        let held = &mut medium[block as usize];
                        assert!(*held <= Some(owner), "seed {seed}: {owner} over {held:?} at {block}");
                        *held = Some(owner);
                    }
                }
                4 | 5 if !at_card.is_empty() => {
                    let (c, owner) = at_card.swap_remove(dice.below(at_card.len() as u64) as usize);
                    let outcome = match dice.below(8) {
                        0 => check_condition(Sense::POWER_ON),
                        1 => {
                            Outcome::Answered { response: 0, status: Status::BUSY, sense: None, residual: 0 }
                        }
                        2 => Outcome::Failed(BlockError::Aborted),
                        3 => Outcome::Failed(BlockError::TargetFailure(1)),
                        _ => {
                            for block in lba_of(&c)..lba_of(&c) + u64::from(c.bytes / 512) {
                                assert!(medium[block as usize] <= Some(owner), "seed {seed}");
                                medium[block as usize] = Some(owner);
                            }
                            Outcome::GOOD
                        }
                    };
                    assert!(b.q.complete(c.id, outcome, now));
                    assert!(!b.q.complete(c.id, outcome, now), "seed {seed}: twice");
                }
                6 => at_card.drain(..).for_each(|(c, _)| assert!(b.q.requeue(c.id, LOST, false, now))),
                7 if dice.below(20) == 0 => b.q.fail_all(BlockError::RecoveryTimedOut { seconds: 1 }),
                8 | 9 => {
                    let lba = dice.below(BLOCKS as u64 - 8);
                    let blocks = 1 + dice.below(7);
                    let (ticket, len) = (b.next, blocks as usize * 512);
                    b.next += 1;
                    let buf = UserBuf { index: ticket as u32, ..BUF };
                    let data = [Extent { buf, offset: 0, len }];
                    let request = Request { lun: Lun::default(), op: Op::Write, lba, data: &data };
                    if b.q.submit(Ticket(ticket), &request, &disk, NOW).is_ok() {
                        live.push((ticket, lba, blocks));
                    }
                }
                _ => {}
            }
            while let Some(done) = b.q.reap() {
                let at = live.iter().position(|(t, ..)| *t == done.ticket.0);
                let (t, lba, blocks) = live.remove(at.expect("completes once"));
                if done.result.is_ok() {
                    let range = lba as usize..(lba + blocks) as usize;
                    assert!(medium[range].iter().all(|m| *m >= Some(t)), "seed {seed}: {t} is not there");
                }
            }
        }
        at_card.drain(..).for_each(|(c, _)| assert!(b.q.complete(c.id, Outcome::GOOD, now)));
        b.q.fail_all(BlockError::SessionClosed);
        while b.q.reap().is_some() {}
        assert_eq!((b.q.live(), b.q.issued(), b.q.held.len()), (0, 0, 0), "seed {seed}");
        assert_eq!((b.q.writes.0.iter().all(|&n| n == 0), b.q.free_cmds.len()), (true, 6), "seed {seed}");
    }
}

/// S12, L2: a command whose execution kills the connection each time.
#[test]
fn a_command_that_ends_every_connection_is_given_up() {
    let mut b = Bench::new(8, 8);
    b.submit(Op::Write, 10, &[512]).unwrap();
    b.submit(Op::Write, 20, &[512]).unwrap();
    for loss in 1..=LOSS_LIMIT {
        // A reset of the adapter, as often as one likes, is not the command's doing.
        let c = b.next().unwrap();
        assert!(b.q.requeue(c.id, LOST, false, NOW));
        let c = b.next().unwrap();
        assert_eq!(lba_of(&c), 10, "loss {loss}");
        assert!(b.q.requeue(c.id, LOST, true, NOW));
    }
    assert_eq!(b.done(), Some((0, Err(BlockError::Transport(LOST)))));
    let other = b.next().unwrap();
    assert_eq!((lba_of(&other), b.next()), (20, None), "the session goes on without it");
    // An answer of the target, also one that asks for a repetition, is progress.
    let mut c = other;
    for _ in 0..2 {
        for _ in 1..LOSS_LIMIT {
            assert!(b.q.requeue(c.id, LOST, true, NOW));
            c = b.next().unwrap();
        }
        assert!(b.q.complete(c.id, check_condition(Sense::new(SenseKey::UNIT_ATTENTION, 0x29, 0)), NOW));
        c = b.next().unwrap();
    }
    b.good(&c);
    assert_eq!(b.done(), Some((1, Ok(()))));
}
