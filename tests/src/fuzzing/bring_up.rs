//! A target that answers anything to a LUN bring-up: it ends, asks for no more than it has room for, and
//! finds no impossible disk.

use std::time::Duration;

use bus::Instant;
use driver::error::BlockError;
use driver::lun::{BringUp, BringUpAction, MAX_LUNS, MAX_READ};
use iscsi::scsi::{Inquiry, Lun, Sense, SenseFormat, Status, op, report_luns};

use super::Cursor;

/// Commands that a bring-up may take: for each unit its steps, each repeated for some unit attentions.
const COMMANDS: usize = (MAX_LUNS + 1) * 16 * 8 + MAX_LUNS * 64;

/// Data that looks like the answer to `cdb`.
fn likely(c: &mut Cursor<'_>, cdb: &[u8; 16]) -> Vec<u8> {
    let mut out = Vec::new();
    match cdb[0] {
        op::REPORT_LUNS => report_luns((0..u16::from(c.byte())).filter_map(Lun::from_number), &mut out),
        op::INQUIRY if cdb[1] & 1 == 0 => {
            let mut bytes = [0; 96];
            bytes[2] = c.byte() % 8;
            bytes[4] = 91;
            if let Some(i) = Inquiry::parse(&bytes) {
                i.encode(&mut out);
            }
        }
        op::INQUIRY => {
            let payload = c.block();
            out.extend_from_slice(&[0, cdb[2], 0, payload.len() as u8]);
            out.extend_from_slice(payload);
        }
        _ => {
            out.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
            out.extend_from_slice(&c.u16().to_be_bytes());
            out.extend_from_slice(&[0, 0, 2, 0]);
            out.resize(32, 0);
        }
    }
    out
}

pub(super) fn run(input: &[u8]) {
    let mut c = Cursor::new(input);
    let mut bring_up = BringUp::new();
    let mut now = Instant::ZERO;
    for _ in 0..COMMANDS {
        match bring_up.poll(now) {
            None => panic!("nothing is out, and nothing is wanted"),
            // The session would be recovered.
            Some(BringUpAction::NoAnswer) => return,
            Some(BringUpAction::Done) => {
                judge(&bring_up);
                return;
            }
            Some(BringUpAction::WaitUntil(at)) => {
                assert!(at > now && at - now <= Duration::from_secs(60), "{:?}", at - now);
                now = at;
            }
            Some(BringUpAction::Submit(command)) => {
                assert!(command.read_len <= MAX_READ);
                answer(&mut c, &mut bring_up, &command, now);
                now += Duration::from_millis(1);
            }
        }
    }
    panic!("the bring-up does not end");
}

fn answer(c: &mut Cursor<'_>, bring_up: &mut BringUp, command: &driver::lun::ScsiCommand, now: Instant) {
    if c.is_empty() {
        // What a target says that knows nothing.
        return bring_up.answered(0, Status::CHECK_CONDITION, Some(Sense::INVALID_OPCODE), &[], now);
    }
    let how = c.byte();
    let mut data = if how & 0x10 != 0 { c.block().to_vec() } else { likely(c, &command.cdb) };
    if how & 0x20 != 0 {
        for b in &mut data {
            *b ^= c.byte() & c.byte();
        }
    }
    data.truncate(command.read_len as usize);
    let sense = if how & 0x40 != 0 {
        Sense::parse(c.block())
    } else {
        let known = [
            Sense::INVALID_OPCODE,
            Sense::new(iscsi::scsi::SenseKey::UNIT_ATTENTION, 0x29, 0),
            Sense::new(iscsi::scsi::SenseKey::NOT_READY, 0x04, 0x01),
            Sense::new(iscsi::scsi::SenseKey::NOT_READY, 0x04, 0x02),
        ];
        Sense::parse(c.pick(&known).encode(SenseFormat::Fixed).as_slice())
    };
    match how & 0x0f {
        0..=8 => bring_up.answered(0, Status::GOOD, None, &data, now),
        9 | 10 => bring_up.answered(0, Status::CHECK_CONDITION, sense, &data, now),
        11 => bring_up.answered(0, Status::BUSY, None, &[], now),
        12 => bring_up.answered(0, Status::RESERVATION_CONFLICT, None, &[], now),
        13 => bring_up.answered(0, Status(c.byte()), sense, &data, now),
        14 => bring_up.answered(c.byte(), Status::GOOD, None, &data, now),
        _ if c.byte() & 1 == 0 => bring_up.unanswered(),
        _ => bring_up.failed(BlockError::NoSense),
    }
}

fn judge(bring_up: &BringUp) {
    assert!(bring_up.found().len() <= MAX_LUNS.max(8));
    for (lun, result) in bring_up.found() {
        match result {
            Ok(info) => {
                assert_eq!(info.lun, *lun);
                let g = info.geometry();
                assert!(g.block_size.is_power_of_two() && (512..=32_768).contains(&g.block_size));
                assert!(info.capacity.bytes().is_some(), "a disk whose size overflows");
            }
            Err(e) => assert!(!e.to_string().is_empty()),
        }
    }
}
