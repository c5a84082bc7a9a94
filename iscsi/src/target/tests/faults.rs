//! What an initiator must not do, and what the target says to it; limits; arbitrary bytes.

use super::*;
use crate::negotiate::DigestOffer;
use proptest::prelude::*;

fn with_params(change: impl FnOnce(&mut LoginParams)) -> (Lab, Host) {
    let mut lab = Lab::new();
    let mut config = initiator(1);
    change(&mut config.params);
    let host = Host::login(&mut lab, config);
    (lab, host)
}

fn solicited_only(p: &mut LoginParams) {
    p.immediate_data = false;
    p.initial_r2t = true;
}

#[test]
fn cmd_sn_outside_the_window_is_ignored() {
    let (mut lab, mut host) = with_params(|_| {});
    for cmd_sn in [host.max_cmd_sn.next(), host.cmd_sn.sub(1), host.cmd_sn.add(1 << 30)] {
        let mut pdu = host.command(0, &Cdb::TestUnitReady, flags::FINAL, 0);
        host.cmd_sn = host.cmd_sn.sub(1);
        pdu.cmd_sn = cmd_sn.into();
        host.send(&mut lab, *pdu, &[]);
        host.nothing_more(&mut lab);
    }
    assert_eq!(lab.server.counters().ignored_cmd_sn, 3);
    assert!(host.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).status.is_good());
}

#[test]
fn commands_run_once_and_in_the_order_of_their_numbers() {
    let mut lab = Lab::with(ServerConfig { trace_commands: true, ..ServerConfig::default() });
    let mut host = Host::login(&mut lab, initiator(1));
    lab.events();
    let first = host.cmd_sn;
    let pdus: Vec<_> = (0..4u8)
        .map(|at| {
            host.command(0, &write(0, 1), flags::FINAL | flags::WRITE, 512 + u32::from(at) - u32::from(at))
        })
        .collect();
    for at in [2usize, 1, 2, 3, 0, 0, 1] {
        let bytes = host.bytes(*pdus[at], &[at as u8; 512]);
        lab.input(host.id, &bytes);
    }
    let order: Vec<u32> = (0..4).map(|_| host.next(&mut lab).bhs.itt.get()).collect();
    assert_eq!(order, pdus.iter().map(|p| p.itt.get()).collect::<Vec<_>>());
    host.nothing_more(&mut lab);
    let executed: Vec<u32> = lab
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Executed { cmd_sn, immediate: false, .. } => Some(cmd_sn),
            _ => None,
        })
        .collect();
    assert_eq!(executed, (0..4).map(|n| first.add(n).0).collect::<Vec<_>>());
    assert_eq!(lab.contents()[0], 3, "the last of them wrote last");
    assert_eq!((lab.server.counters().held, lab.server.counters().ignored_cmd_sn), (3, 3));
    let session = lab.server.sessions().next().unwrap();
    assert_eq!((session.executed, session.exp_cmd_sn), (6, first.add(4).0));
}

/// iscsi-test-cu's iSCSIDataSnInvalid: none of these writes may succeed.
#[test]
fn wrong_data_sn_fails_the_write() {
    for numbers in [[0u32, 0], [0, 27], [0, u32::MAX], [1, 0], [1, 2]] {
        for unsolicited in [false, true] {
            let (mut lab, mut host) = with_params(|p| {
                p.immediate_data = false;
                p.initial_r2t = !unsolicited;
            });
            let f = if unsolicited { flags::WRITE } else { flags::WRITE | flags::FINAL };
            let pdu = host.command(0, &write(0, 2), f, 1024);
            host.send(&mut lab, *pdu, &[]);
            let ttt = if unsolicited { RESERVED_TAG } else { host.next(&mut lab).view::<R2t>().ttt.get() };
            for (at, data_sn) in numbers.into_iter().enumerate() {
                let pdu = host.data_out_pdu(0, ttt, data_sn, at * 512, at == 1);
                host.send(&mut lab, *pdu, &[1; 512]);
            }
            let itt = host.itt;
            assert_eq!(
                host.finish(&mut lab, itt, 0, &[]).check(),
                Sense::INCORRECT_AMOUNT_OF_DATA,
                "{numbers:?}"
            );
            host.nothing_more(&mut lab);
            assert!(
                host.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).status.is_good(),
                "the session goes on"
            );
        }
    }
}

#[test]
fn offset_length_and_end_of_a_sequence_are_checked() {
    // (offset, bytes, final) of each Data-Out for an R2T of 1024 bytes.
    let rows: [&[(usize, usize, bool)]; 5] = [
        &[(512, 512, false), (512, 512, true)],
        &[(0, 1536, true)],
        &[(0, 512, true)],
        &[(0, 512, false), (0, 512, true)],
        &[(usize::MAX >> 32, 512, true)],
    ];
    for row in rows {
        let (mut lab, mut host) = with_params(solicited_only);
        let pdu = host.command(0, &write(0, 2), flags::WRITE | flags::FINAL, 1024);
        host.send(&mut lab, *pdu, &[]);
        let ttt = host.next(&mut lab).view::<R2t>().ttt.get();
        for (data_sn, (offset, len, last)) in row.iter().enumerate() {
            let pdu = host.data_out_pdu(0, ttt, data_sn as u32, *offset, *last);
            host.send(&mut lab, *pdu, &vec![1; *len]);
        }
        let itt = host.itt;
        assert_eq!(host.finish(&mut lab, itt, 0, &[]).check(), Sense::INCORRECT_AMOUNT_OF_DATA, "{row:?}");
        assert!(lab.server.counters().transfer_violations > 0);
    }
}

#[test]
fn sequences_come_in_the_order_of_their_r2ts() {
    for (swapped, wrong_lun) in [(false, false), (true, false), (false, true)] {
        let (mut lab, mut host) = with_params(|p| {
            solicited_only(p);
            p.max_burst_length = 512;
            p.max_outstanding_r2t = 2;
        });
        let pdu = host.command(0, &write(0, 2), flags::WRITE | flags::FINAL, 1024);
        host.send(&mut lab, *pdu, &[]);
        let mut asked = [host.next(&mut lab).view::<R2t>(), host.next(&mut lab).view::<R2t>()];
        if swapped {
            asked.swap(0, 1);
        }
        for r2t in asked {
            let lun = if wrong_lun { 3 } else { 0 };
            host.data_out(&mut lab, lun, r2t.ttt.get(), r2t.buffer_offset.get() as usize, &[1; 512]);
        }
        let itt = host.itt;
        let done = host.finish(&mut lab, itt, 0, &[]);
        if swapped || wrong_lun {
            assert_eq!(done.check(), Sense::INCORRECT_AMOUNT_OF_DATA);
        } else {
            assert_eq!(done.status, Status::GOOD);
        }
    }
}

#[test]
fn unsolicited_data_comes_to_the_first_burst_exactly() {
    for (len, good) in [(2048usize, true), (1536, false), (2560, false)] {
        let (mut lab, mut host) = with_params(|p| {
            p.immediate_data = false;
            p.initial_r2t = false;
            p.first_burst_length = 2048;
        });
        let data = pattern(4096, 1);
        let pdu = host.command(0, &write(0, 8), flags::WRITE, 4096);
        host.send(&mut lab, *pdu, &[]);
        host.data_out(&mut lab, 0, RESERVED_TAG, 0, &data[..len]);
        let itt = host.itt;
        let done = host.finish(&mut lab, itt, 0, &data);
        if good {
            assert_eq!((done.status, &lab.contents()[..4096]), (Status::GOOD, &data[..]));
        } else {
            assert_eq!(done.check(), Sense::INCORRECT_AMOUNT_OF_DATA, "{len} bytes");
        }
    }
}

#[test]
fn unsolicited_data_that_was_not_agreed_fails_the_write() {
    // Immediate data although ImmediateData=No.
    let (mut lab, mut host) = with_params(solicited_only);
    let pdu = host.command(0, &write(0, 1), flags::WRITE | flags::FINAL, 512);
    host.send(&mut lab, *pdu, &[1; 512]);
    let itt = host.itt;
    assert_eq!(host.finish(&mut lab, itt, 0, &[]).check(), Sense::UNEXPECTED_UNSOLICITED_DATA);
    // Announced although InitialR2T=Yes: answered when its end came.
    let pdu = host.command(0, &write(0, 1), flags::WRITE, 512);
    host.send(&mut lab, *pdu, &[]);
    host.nothing_more(&mut lab);
    host.data_out(&mut lab, 0, RESERVED_TAG, 0, &[1; 512]);
    let itt = host.itt;
    assert_eq!(host.finish(&mut lab, itt, 0, &[]).check(), Sense::UNEXPECTED_UNSOLICITED_DATA);
    // Not announced, in place of the answer to an R2T.
    let pdu = host.command(0, &write(0, 1), flags::WRITE | flags::FINAL, 512);
    host.send(&mut lab, *pdu, &[]);
    let ttt = host.next(&mut lab).view::<R2t>().ttt.get();
    host.data_out(&mut lab, 0, RESERVED_TAG, 0, &[1; 512]);
    host.data_out(&mut lab, 0, ttt, 0, &[1; 512]);
    let itt = host.itt;
    assert_eq!(host.finish(&mut lab, itt, 0, &[]).check(), Sense::UNEXPECTED_UNSOLICITED_DATA);
    // More immediate data than the first burst, or than the command expects.
    let (mut lab, mut host) = with_params(|p| p.first_burst_length = 1024);
    for (edtl, len) in [(4096, 1536), (512, 1024)] {
        let pdu = host.command(0, &write(0, 8), flags::WRITE | flags::FINAL, edtl);
        host.send(&mut lab, *pdu, &vec![1; len]);
        let itt = host.itt;
        assert_eq!(host.finish(&mut lab, itt, 0, &[]).check(), Sense::INCORRECT_AMOUNT_OF_DATA);
    }
    assert!(lab.contents().iter().all(|b| *b == 0), "nothing was written");
}

#[test]
fn header_digest_error_ends_the_connection() {
    let (mut lab, mut host) = with_params(|p| p.header_digest = DigestOffer::Crc32c);
    let pdu = host.command(0, &Cdb::TestUnitReady, flags::FINAL, 0);
    let mut bytes = host.bytes(*pdu, &[]);
    bytes[20] ^= 1;
    lab.input(host.id, &bytes);
    assert!(lab.server.should_close(host.id));
    assert_eq!((lab.server.counters().header_digest_errors, lab.server.sessions().count()), (1, 0));
    let reason = CloseReason::Framing(crate::framing::FramingError::HeaderDigest);
    assert!(lab.events().contains(&Event::Closed { conn: host.id, reason }));
}

#[test]
fn data_digest_error_in_data_out_fails_the_write() {
    let (mut lab, mut host) = with_params(|p| {
        solicited_only(p);
        p.data_digest = DigestOffer::Crc32c;
    });
    let pdu = host.command(0, &write(0, 2), flags::WRITE | flags::FINAL, 1024);
    host.send(&mut lab, *pdu, &[]);
    let ttt = host.next(&mut lab).view::<R2t>().ttt.get();
    let first = host.data_out_pdu(0, ttt, 0, 0, false);
    let mut bytes = host.bytes(*first, &[1; 512]);
    bytes[48 + 100] ^= 1;
    lab.input(host.id, &bytes);
    let reject = host.next(&mut lab);
    assert_eq!(reject.view::<Reject>().code(), Some(RejectReason::DataDigestError));
    assert_eq!(reject.data[..4], [5, 0, 0, 0], "the header of the Data-Out");
    host.nothing_more(&mut lab);
    let second = host.data_out_pdu(0, ttt, 1, 512, true);
    host.send(&mut lab, *second, &[1; 512]);
    let itt = host.itt;
    assert_eq!(host.finish(&mut lab, itt, 0, &[]).check(), Sense::PROTOCOL_SERVICE_CRC);
    assert!(lab.contents()[..1024].iter().all(|b| *b == 0));
}

/// S2: what arrived damaged is never on the disk, wherever in the write it was and whatever its bytes were;
/// nor is what came after.
#[test]
fn damaged_data_is_not_written() {
    // Blocks of the write: the number of the Data-Out that is damaged, in which byte, and what is on the disk
    // then.
    for (damaged, byte, good_blocks) in
        [(0, 48, 0), (0, 48 + 511, 0), (0, 48 + 512, 0), (1, 48, 1), (2, 48 + 7, 2)]
    {
        for unsolicited in [false, true] {
            let (mut lab, mut host) = with_params(|p| {
                solicited_only(p);
                p.initial_r2t = !unsolicited;
                p.data_digest = DigestOffer::Crc32c;
            });
            lab.prefill(&[9; 2048]);
            let more = if unsolicited { 0 } else { flags::FINAL };
            let pdu = host.command(0, &write(0, 3), flags::WRITE | more, 1536);
            host.send(&mut lab, *pdu, &[]);
            let ttt = if unsolicited { RESERVED_TAG } else { host.next(&mut lab).view::<R2t>().ttt.get() };
            for n in 0..3 {
                let out = host.data_out_pdu(0, ttt, n, 512 * n as usize, n == 2);
                let mut bytes = host.bytes(*out, &[n as u8 + 1; 512]);
                if n == damaged {
                    bytes[byte] ^= 1;
                }
                lab.input(host.id, &bytes);
            }
            assert!(host.next(&mut lab).is(Opcode::Reject));
            let itt = host.itt;
            assert_eq!(host.finish(&mut lab, itt, 0, &[]).check(), Sense::PROTOCOL_SERVICE_CRC);
            let after = lab.contents();
            for block in 0..4 {
                let written = if block < good_blocks { block as u8 + 1 } else { 9 };
                let found = &after[block * 512..][..512];
                assert!(
                    found.iter().all(|b| *b == written),
                    "damaged {damaged}, block {block}: {}",
                    found[0]
                );
            }
        }
    }
}

#[test]
fn a_command_with_a_data_digest_error_may_be_sent_again() {
    let (mut lab, mut host) = with_params(|p| p.data_digest = DigestOffer::Crc32c);
    let pdu = host.command(0, &write(0, 1), flags::WRITE | flags::FINAL, 512);
    let good = host.bytes(*pdu, &[7; 512]);
    let mut bad = good.clone();
    bad[60] ^= 1;
    lab.input(host.id, &bad);
    assert_eq!(host.next(&mut lab).view::<Reject>().code(), Some(RejectReason::DataDigestError));
    let later = host.command(0, &Cdb::TestUnitReady, flags::FINAL, 0);
    host.send(&mut lab, *later, &[]);
    host.nothing_more(&mut lab);
    lab.input(host.id, &good);
    let order = [host.next(&mut lab).bhs.itt.get(), host.next(&mut lab).bhs.itt.get()];
    assert_eq!(order, [pdu.itt.get(), later.itt.get()]);
    assert_eq!(lab.contents()[0], 7);
}

#[test]
fn what_makes_no_sense_is_rejected_with_its_header() {
    let (mut lab, mut host) = with_params(|_| {});
    let mut unknown = *NopOut::new();
    unknown = *Bhs::from_bytes(&{
        let mut bytes = *unknown.wire();
        bytes[0] = 0x1D;
        bytes
    });
    let mut function = *TaskManagementRequest::new();
    function.flags = flags::FINAL;
    let rows = [
        (unknown, RejectReason::CommandNotSupported),
        (function, RejectReason::InvalidField),
        (*SnackRequest::new(), RejectReason::SnackRejected),
        (*NopIn::new(), RejectReason::ProtocolError),
    ];
    for (bhs, reason) in rows {
        host.send(&mut lab, bhs, &[]);
        let seen = host.next(&mut lab);
        assert_eq!(seen.view::<Reject>().code(), Some(reason));
        assert_eq!(seen.data, bhs.wire());
    }
    assert_eq!(lab.server.counters().rejects, 4);
    assert!(host.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).status.is_good(), "the session goes on");
}

#[test]
fn a_tag_in_use_and_too_many_immediate_commands() {
    let (mut lab, mut host) = with_params(solicited_only);
    let limit = ServerConfig::default().immediate_limit;
    let mut pdu = host.command(0, &write(0, 1), flags::WRITE | flags::FINAL, 512);
    host.cmd_sn = host.cmd_sn.sub(1);
    pdu.set_immediate(true);
    host.send(&mut lab, *pdu, &[]);
    assert!(host.next(&mut lab).is(Opcode::R2t));
    host.send(&mut lab, *pdu, &[]);
    assert_eq!(host.next(&mut lab).view::<Reject>().code(), Some(RejectReason::TaskInProgress));
    for at in 1..=limit {
        pdu.itt.set(1000 + at);
        host.send(&mut lab, *pdu, &[]);
        let seen = host.next(&mut lab);
        if at < limit {
            assert!(seen.is(Opcode::R2t));
        } else {
            assert_eq!(seen.view::<Reject>().code(), Some(RejectReason::TooManyImmediate));
        }
    }
}

#[test]
fn the_window_bounds_the_tasks() {
    let (mut lab, mut host) = with_params(solicited_only);
    let depth = ServerConfig::default().window;
    assert_eq!(host.max_cmd_sn.since(host.cmd_sn) + 1, depth);
    let mut transfers = Vec::new();
    for _ in 0..depth {
        let pdu = host.command(0, &write(0, 1), flags::WRITE | flags::FINAL, 512);
        host.send(&mut lab, *pdu, &[]);
        transfers.push((host.itt, host.next(&mut lab).view::<R2t>().ttt.get()));
    }
    assert_eq!(host.max_cmd_sn.next(), host.cmd_sn, "the window is closed");
    let pdu = host.command(0, &Cdb::TestUnitReady, flags::FINAL, 0);
    host.send(&mut lab, *pdu, &[]);
    host.nothing_more(&mut lab);
    for (itt, ttt) in transfers {
        host.itt = itt;
        host.data_out(&mut lab, 0, ttt, 0, &[1; 512]);
        assert!(host.finish(&mut lab, itt, 0, &[]).status.is_good());
    }
    assert_eq!(host.max_cmd_sn.since(host.cmd_sn.sub(1)) + 1, depth);
}

#[test]
fn a_write_whose_data_stops_is_given_up() {
    let (mut lab, mut host) = with_params(solicited_only);
    let pdu = host.command(0, &write(0, 2), flags::WRITE | flags::FINAL, 1024);
    host.send(&mut lab, *pdu, &[]);
    let ttt = host.next(&mut lab).view::<R2t>().ttt.get();
    let itt = host.itt;
    lab.now_ns += 20 * SECOND;
    let part = host.data_out_pdu(0, ttt, 0, 0, false);
    host.send(&mut lab, *part, &[1; 512]);
    let timeout = ServerConfig::default().transfer_timeout_ns;
    assert_eq!(lab.server.tick(30 * SECOND), Some(20 * SECOND + timeout), "each Data-Out begins it anew");
    host.nothing_more(&mut lab);
    lab.server.tick(20 * SECOND + timeout);
    assert_eq!(host.finish(&mut lab, itt, 0, &[]).check(), Sense::INCORRECT_AMOUNT_OF_DATA);
    let late = host.data_out_pdu(0, ttt, 1, 512, true);
    host.send(&mut lab, *late, &[1; 512]);
    host.nothing_more(&mut lab);
    assert_eq!((lab.server.counters().transfer_timeouts, lab.server.counters().stray_data_out), (1, 1));
}

#[test]
fn held_data_is_bounded() {
    let (mut lab, mut host) = with_params(|_| {});
    host.command(0, &Cdb::TestUnitReady, flags::FINAL, 0);
    let mut rejected = 0;
    for _ in 0..6 {
        let pdu = host.command(0, &write(0, 512), flags::WRITE | flags::FINAL, 262_144);
        host.send(&mut lab, *pdu, &[1; 262_144]);
        host.poll(&mut lab);
        rejected += host
            .seen
            .drain(..)
            .filter(|seen| seen.view::<Reject>().code() == Some(RejectReason::OutOfResources))
            .count();
    }
    assert_eq!(rejected, 2, "four times 256 KiB wait");
}

#[test]
fn events_are_bounded() {
    let (mut lab, mut host) = with_params(|_| {});
    for _ in 0..5000 {
        host.send(&mut lab, *SnackRequest::new(), &[]);
        host.poll(&mut lab);
        host.seen.clear();
    }
    assert_eq!(lab.events().len(), 4096);
    assert!(lab.server.counters().events_dropped >= 5000 - 4096);
}

/// Somewhat plausible PDUs, so that more than the first check is reached.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let header = (
        prop::sample::select(vec![0u8, 0x40, 1, 0x41, 2, 0x42, 4, 0x44, 5, 6, 0x46, 0x10, 0x3F]),
        any::<u8>(),
        prop::sample::select(vec![0u16, 1, 512, 700, 8192]),
        0u32..6,
        prop::sample::select(vec![0u32, 1, 512, 8192, 1 << 20, u32::MAX]),
        0u32..8,
        proptest::array::uniform16(any::<u8>()),
        prop::sample::select(vec![0x28u8, 0x2A, 0x12, 0x41, 0x93, 0x5F, 0x42, 0x2F, 0xA0]),
    );
    header.prop_map(|(opcode, flags, len, itt, word, sn, cdb, op)| {
        let mut bytes = vec![0; 48];
        bytes[0] = opcode;
        bytes[1] = flags;
        bytes[6..8].copy_from_slice(&len.to_be_bytes());
        bytes[16..20].copy_from_slice(&itt.to_be_bytes());
        bytes[20..24].copy_from_slice(&word.to_be_bytes());
        bytes[24..28].copy_from_slice(&0xFFFF_FFF2u32.wrapping_add(sn).to_be_bytes());
        bytes[32..48].copy_from_slice(&cdb);
        if opcode & 0x3F == 1 {
            bytes[32] = op;
            bytes[34..40].fill(0);
        }
        bytes.resize(48 + usize::from(len).next_multiple_of(4), 0xA5);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_before_login(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut lab = Lab::new();
        let id = lab.server.connect("127.0.0.1:3260", 0).unwrap();
        lab.server.input(id, 0, &bytes, &mut |out| out.fill(1));
        prop_assert!(lab.server.output(id).len() <= bytes.len() + 9000);
        lab.server.closed(id);
        prop_assert!(lab.server.should_close(id));
    }

    /// Whatever arrives in a session: no panic, output within its limit, tasks within the window, and a fresh
    /// login still works.
    #[test]
    fn arbitrary_requests_in_a_session(pdus in prop::collection::vec(noise(), 1..120), piece in 1usize..5000) {
        let config = ServerConfig { output_limit: 128 << 10, ..ServerConfig::default() };
        let mut lab = Lab::with(config.clone());
        let mut host = Host::login(&mut lab, initiator(1));
        for (at, pdu) in pdus.iter().enumerate() {
            for bytes in pdu.chunks(piece) {
                lab.server.input(host.id, at as u64, bytes, &mut |out| out.fill(1));
            }
            prop_assert!(lab.server.output(host.id).len() <= config.output_limit + (256 << 10) + 96);
            let most = (config.window + config.immediate_limit) as usize;
            prop_assert!(lab.server.sessions().all(|session| session.tasks <= most));
            if at % 7 == 0 {
                let n = lab.server.output(host.id).len();
                lab.server.consume_output(host.id, n);
            }
        }
        lab.server.tick(100 * SECOND);
        lab.server.closed(host.id);
        host = Host::login(&mut lab, initiator(2));
        lab.now_ns = 0;
        let status = host.run(&mut lab, 3, &read(0, 1), 512, &[]).status;
        prop_assert!(status.is_good() || status == Status::RESERVATION_CONFLICT);
    }
}
