//! Commands that reach past one session or one unit: COMPARE AND WRITE from two sessions, EXTENDED COPY
//! between units, SANITIZE without its command, mode parameters that all share.

use super::*;
use crate::scsi::{SenseFormat, designators, op, vpd_payload};
use std::slice;

fn sixteen(lba: u64, blocks: u32) -> Transfer {
    Transfer { form: Form::Sixteen, ..Transfer::new(lba, blocks) }
}

/// One session's data is on its way while another session's command comes and goes: the comparison sees what
/// is there at the end.
#[test]
fn compare_and_write_is_one_step_among_sessions() {
    let mut lab = Lab::new();
    let (mut a, mut b) = (Host::login(&mut lab, initiator(1)), Host::login(&mut lab, initiator(2)));
    let caw = Cdb::CompareAndWrite(sixteen(0, 1));
    let half = vec![0; 512];
    // A's comparison data comes at once, the rest is announced and missing.
    let command = a.command(0, &caw, flags::WRITE, 1024);
    let itt = a.itt;
    a.send(&mut lab, *command, &half);
    let won = b.run(&mut lab, 0, &caw, 0, &[vec![0; 512], vec![0xB; 512]].concat());
    assert_eq!(won.status, Status::GOOD);
    a.data_out(&mut lab, 0, RESERVED_TAG, 512, &[0xA; 512]);
    let lost = a.finish(&mut lab, itt, 0, &[]);
    assert!(lost.check().same_condition(&Sense::MISCOMPARE));
    assert_eq!(lost.check().information, Some(0));
    assert!(lab.contents()[..512].iter().all(|x| *x == 0xB));
}

/// Without any data, and with another amount than the count says.
#[test]
fn compare_and_write_wants_twice_its_blocks() {
    let mut lab = Lab::new();
    let mut host = Host::login(&mut lab, initiator(1));
    for (blocks, bytes) in [(0, 1024), (1, 512), (1, 2048), (2, 1024)] {
        let done = host.run(&mut lab, 0, &Cdb::CompareAndWrite(sixteen(0, blocks)), 0, &vec![0; bytes]);
        assert!(done.check().same_condition(&Sense::INVALID_FIELD), "{blocks} blocks, {bytes} bytes");
    }
    let nothing = host.run(&mut lab, 0, &Cdb::CompareAndWrite(sixteen(0, 0)), 0, &[]);
    assert_eq!(nothing.status, Status::GOOD);
}

/// The NAA designator of a unit.
fn naa(lab: &mut Lab, host: &mut Host, lun: u16) -> Vec<u8> {
    let ask = Cdb::Inquiry { evpd: true, page: 0x83, allocation: 512 };
    let page = host.run(lab, lun, &ask, 512, &[]).data;
    let found = designators(vpd_payload(0x83, &page).unwrap()).find(|d| (d.association, d.kind) == (0, 3));
    found.unwrap().data.to_vec()
}

/// A LID1 parameter list (SPC-4 6.4.3): identification descriptors of `targets`, and block segments of
/// (source, destination, blocks, first block at the source, first block at the destination).
fn copy_list(id: u8, targets: &[Vec<u8>], segments: &[(u16, u16, u16, u64, u64)]) -> Vec<u8> {
    let mut list = vec![0; 16];
    list[0] = id;
    list[2..4].copy_from_slice(&(targets.len() as u16 * 32).to_be_bytes());
    list[8..12].copy_from_slice(&(segments.len() as u32 * 28).to_be_bytes());
    for name in targets {
        let mut descriptor = vec![0; 32];
        descriptor[0] = 0xE4;
        descriptor[4..8].copy_from_slice(&[1, 3, 0, name.len() as u8]);
        descriptor[8..8 + name.len()].copy_from_slice(name);
        list.extend_from_slice(&descriptor);
    }
    for (from, to, blocks, from_lba, to_lba) in segments {
        list.extend_from_slice(&[0x02, 0, 0, 24]);
        list.extend_from_slice(&from.to_be_bytes());
        list.extend_from_slice(&to.to_be_bytes());
        list.extend_from_slice(&[0, 0]);
        list.extend_from_slice(&blocks.to_be_bytes());
        list.extend_from_slice(&from_lba.to_be_bytes());
        list.extend_from_slice(&to_lba.to_be_bytes());
    }
    list
}

fn copy(lab: &mut Lab, host: &mut Host, list: &[u8]) -> Finished {
    host.run(lab, 0, &Cdb::ExtendedCopy { parameter_len: list.len() as u32 }, 0, list)
}

fn copy_status(lab: &mut Lab, host: &mut Host, list_id: u8) -> Finished {
    host.run(
        lab,
        0,
        &Cdb::ReceiveCopyResults { action: op::SA_COPY_STATUS, list_id, allocation: 64 },
        64,
        &[],
    )
}

#[test]
fn blocks_are_copied_within_a_unit_and_between_units() {
    let mut lab = Lab::new();
    let mut host = Host::login(&mut lab, initiator(1));
    let data: Vec<u8> = (0..600 * 512u32).map(|i| (i / 5) as u8).collect();
    lab.prefill(&data);
    let (zero, three) = (naa(&mut lab, &mut host, 0), naa(&mut lab, &mut host, 3));
    let list = copy_list(7, &[zero.clone(), three.clone()], &[(0, 0, 600, 0, 4000), (0, 1, 16, 10, 0)]);
    assert!(copy_status(&mut lab, &mut host, 7).check().same_condition(&Sense::INVALID_FIELD), "not yet");
    assert_eq!(copy(&mut lab, &mut host, &list).status, Status::GOOD);
    assert_eq!(lab.contents()[4000 * 512..4600 * 512], data);
    let mut copied = Vec::new();
    lab.server.disk(TARGET, 3).unwrap().backend().read_at(0, 16 * 512, &mut copied).unwrap();
    assert_eq!(copied, data[10 * 512..26 * 512]);
    assert_eq!(copy_status(&mut lab, &mut host, 7).data[..7], [0, 0, 0, 8, 1, 0, 2]);
    let mut other = Host::login(&mut lab, initiator(2));
    assert!(
        copy_status(&mut lab, &mut other, 7).check().same_condition(&Sense::INVALID_FIELD),
        "not its own"
    );

    // Ranges that overlap, either way.
    for (from, to) in [(0u64, 100u64), (100, 0)] {
        lab.prefill(&data);
        let list = copy_list(9, slice::from_ref(&zero), &[(0, 0, 500, from, to)]);
        assert_eq!(copy(&mut lab, &mut host, &list).status, Status::GOOD);
        let (from, to) = (from as usize * 512, to as usize * 512);
        assert!(lab.contents()[to..to + 500 * 512] == data[from..from + 500 * 512], "{from} to {to}");
    }

    // What cannot be followed: nothing of it is done, or what came before the bad segment.
    let bad = |targets: &[Vec<u8>], segment| copy_list(8, targets, &[segment]);
    for (list, sense) in [
        (bad(slice::from_ref(&zero), (0, 1, 1, 0, 0)), Sense::COPY_UNREACHABLE),
        (bad(&[vec![9; 8]], (0, 0, 1, 0, 0)), Sense::COPY_TARGET_NOT_REACHABLE),
        (bad(slice::from_ref(&zero), (0, 0, 2, 0, 8191)), Sense::COPY_ABORTED),
        (bad(&[zero.clone(), three.clone()], (1, 0, 17, 0, 0)), Sense::COPY_ABORTED),
        (bad(slice::from_ref(&zero), (0, 0, 1, u64::MAX, 0)), Sense::COPY_ABORTED),
    ] {
        assert_eq!(copy(&mut lab, &mut host, &list).check(), sense);
        assert_eq!(copy_status(&mut lab, &mut host, 8).data[4], 2, "failed");
    }
    let many = copy_list(1, &vec![zero.clone(); 9], &[(0, 0, 1, 0, 0)]);
    assert_eq!(copy(&mut lab, &mut host, &many).check(), Sense::TOO_MANY_TARGETS);
    let many = copy_list(1, slice::from_ref(&zero), &[(0, 0, 1, 0, 1); 17]);
    assert_eq!(copy(&mut lab, &mut host, &many).check(), Sense::TOO_MANY_SEGMENTS);
    let good = copy_list(1, slice::from_ref(&zero), &[(0, 0, 1, 0, 1)]);
    let with = |at: usize, byte: u8| {
        let mut list = good.clone();
        list[at] = byte;
        list
    };
    assert_eq!(copy(&mut lab, &mut host, &with(16, 0xE0)).check(), Sense::UNSUPPORTED_TARGET_DESCRIPTOR);
    assert_eq!(copy(&mut lab, &mut host, &with(48, 0x03)).check(), Sense::UNSUPPORTED_SEGMENT_DESCRIPTOR);
    assert_eq!(copy(&mut lab, &mut host, &good[..good.len() - 1]).check(), Sense::PARAMETER_LENGTH);
    assert_eq!(copy(&mut lab, &mut host, &vec![0; 721]).check(), Sense::PARAMETER_LENGTH);
}

/// A copy has the rights of the nexus that asked for it, at both units.
#[test]
fn a_copy_respects_reservations_and_write_protection() {
    let mut lab = Lab::new();
    let (mut a, mut b) = (Host::login(&mut lab, initiator(1)), Host::login(&mut lab, initiator(2)));
    let (zero, three) = (naa(&mut lab, &mut a, 0), naa(&mut lab, &mut a, 3));
    let list = copy_list(1, &[zero, three], &[(0, 1, 1, 0, 0)]);
    assert_eq!(b.run(&mut lab, 3, &Cdb::Reserve6, 0, &[]).status, Status::GOOD);
    assert_eq!(copy(&mut lab, &mut a, &list).check(), Sense::COPY_ABORTED);
    assert_eq!(b.run(&mut lab, 3, &Cdb::Release6, 0, &[]).status, Status::GOOD);
    assert_eq!(copy(&mut lab, &mut a, &list).status, Status::GOOD);
    protect(&mut lab, &mut b, 3, 8);
    assert_eq!(copy(&mut lab, &mut a, &list).check(), Sense::SOFTWARE_WRITE_PROTECTED);
}

/// Sets byte 4 (SWP) of the Control page.
fn protect(lab: &mut Lab, host: &mut Host, lun: u16, swp: u8) {
    let list = [0, 0, 0, 0, 0x0A, 0x0A, 0, 0x10, swp, 0, 0, 0, 0, 0, 0, 0];
    let cdb = Cdb::ModeSelect { form: Form::Six, save: false, parameter_len: 16 };
    assert_eq!(host.run(lab, lun, &cdb, 0, &list).status, Status::GOOD);
}

#[test]
fn a_long_copy_takes_turns_and_tells_how_far_it_is() {
    let mut lab = Lab::new();
    let mut host = Host::login(&mut lab, initiator(1));
    let zero = naa(&mut lab, &mut host, 0);
    let list = copy_list(5, &[zero], &[(0, 0, 1, 0, 1), (0, 0, 4000, 0, 4096)]);
    lab.own_turns = true;
    let cdb = Cdb::ExtendedCopy { parameter_len: list.len() as u32 };
    let command = host.command(0, &cdb, flags::FINAL | flags::WRITE, list.len() as u32);
    let itt = host.itt;
    host.send(&mut lab, *command, &list);
    let status = copy_status(&mut lab, &mut host, 5);
    assert_eq!(status.data[..7], [0, 0, 0, 8, 0, 0, 1], "in progress, one segment done");
    while lab.server.work(lab.now_ns).is_some() {}
    assert_eq!(host.finish(&mut lab, itt, 0, &[]).status, Status::GOOD);
    assert_eq!(copy_status(&mut lab, &mut host, 5).data[4], 1);
}

/// No abort and no loss of the session ends an erase; another session waits and then finds zeros.
#[test]
fn an_erase_goes_on_without_its_command() {
    for immed in [false, true] {
        let mut lab = Lab::new();
        lab.prefill(&vec![7; BLOCKS * 512]);
        let (mut a, mut b) = (Host::login(&mut lab, initiator(1)), Host::login(&mut lab, initiator(2)));
        lab.own_turns = true;
        let erase = Cdb::Sanitize { action: op::SA_BLOCK_ERASE, immed, unrestricted_exit: false };
        let command = a.command(0, &erase, flags::FINAL, 0);
        a.send(&mut lab, *command, &[]);
        let busy = b.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]);
        assert_eq!(busy.check(), Sense::SANITIZE_IN_PROGRESS);
        lab.server.closed(a.id);
        while lab.server.has_work() {
            lab.server.work(lab.now_ns);
        }
        assert_eq!(b.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).status, Status::GOOD, "immed {immed}");
        assert!(lab.contents().iter().all(|x| *x == 0));
    }
}

#[test]
fn mode_parameters_are_shared_and_others_are_told() {
    let mut lab = Lab::new();
    let (mut a, mut b) = (Host::login(&mut lab, initiator(1)), Host::login(&mut lab, initiator(2)));
    protect(&mut lab, &mut a, 0, 8);
    assert_eq!(b.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).check(), Sense::MODE_CHANGED);
    let write = Cdb::Write(sixteen(0, 1));
    for host in [&mut a, &mut b] {
        assert_eq!(host.run(&mut lab, 0, &write, 0, &[1; 512]).check(), Sense::SOFTWARE_WRITE_PROTECTED);
        assert_eq!(host.run(&mut lab, 3, &write, 0, &[1; 512]).status, Status::GOOD, "the other unit");
    }
    protect(&mut lab, &mut b, 0, 0);
    assert_eq!(a.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).check(), Sense::MODE_CHANGED);
    assert_eq!(a.run(&mut lab, 0, &write, 0, &[1; 512]).status, Status::GOOD);
    // D_SENSE changes the form of autosense.
    let list = [0, 0, 0, 0, 0x0A, 0x0A, 4, 0x10, 0, 0, 0, 0, 0, 0, 0, 0];
    let select = Cdb::ModeSelect { form: Form::Six, save: false, parameter_len: 16 };
    assert_eq!(a.run(&mut lab, 0, &select, 0, &list).status, Status::GOOD);
    assert_eq!(lab.server.disk(TARGET, 0).unwrap().sense_format(), SenseFormat::Descriptor);
    let command = a.command(0, &Cdb::Read(sixteen(u64::MAX, 1)), flags::FINAL | flags::READ, 512);
    a.send(&mut lab, *command, &[]);
    let seen = a.next(&mut lab);
    assert_eq!(seen.data[2], 0x72, "descriptor format");
    assert_eq!(Sense::parse(&seen.data[2..]), Some(Sense::LBA_OUT_OF_RANGE));
}
