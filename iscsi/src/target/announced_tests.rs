//! What the disk announces is there, and what is there is announced: operation codes, CDB usage maps, and
//! each bit of INQUIRY, the VPD pages, READ CAPACITY(16) and MODE SENSE with the command and the effect that
//! it stands for.

use super::*;
use crate::scsi::{BlockLimits, CdbError, Inquiry, Provisioning, be16};

/// Runs raw CDB bytes without data; `Err` for those that the parser refuses.
fn raw(d: &mut Disk, bytes: [u8; 16]) -> Result<(Outcome, Vec<u8>), CdbError> {
    Cdb::parse(&bytes).map(|cdb| start(d, cdb))
}

/// A CDB from its first bytes.
fn cdb(bytes: &[u8]) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..bytes.len()].copy_from_slice(bytes);
    cdb
}

fn refused(outcome: &Result<(Outcome, Vec<u8>), CdbError>) -> bool {
    match outcome {
        Err(_) => true,
        Ok((Outcome::Done(Status::CHECK_CONDITION, Some(sense)), _)) => {
            *sense == Sense::INVALID_OPCODE || *sense == Sense::invalid_cdb_byte(1)
        }
        Ok(_) => false,
    }
}

fn page(d: &mut Disk, code: u8) -> Vec<u8> {
    let (outcome, mut reply) = start(d, Cdb::Inquiry { evpd: true, page: code, allocation: 512 });
    assert_eq!(outcome, Outcome::Reply);
    let len = usize::from(be16(&reply, 2).unwrap());
    assert_eq!(reply.len(), 4 + len, "page {code:#04x} has the length that it says");
    reply.split_off(4)
}

/// REPORT SUPPORTED OPERATION CODES against what happens, for every operation code and service action (SPC-4
/// 6.34). REPORT LUNS is answered by the target before it asks a disk.
#[test]
fn every_listed_command_is_taken_and_no_other() {
    for opcode in 0..=255u8 {
        for action in 0..32u8 {
            let listed = COMMANDS
                .iter()
                .find(|c| c.opcode() == opcode && c.action.is_none_or(|a| a == u16::from(action)));
            let has_actions = COMMANDS.iter().any(|c| c.opcode() == opcode && c.action.is_some());
            if (!has_actions && action != 0) || opcode == op::REPORT_LUNS {
                continue;
            }
            let outcome = raw(&mut disk(1024), cdb(&[opcode, action]));
            assert_eq!(!refused(&outcome), listed.is_some(), "{opcode:#04x}/{action:#04x}: {outcome:?}");
            let (_, report) = start(
                &mut disk(8),
                Cdb::ReportOpcodes {
                    timeouts: false,
                    options: 3,
                    opcode,
                    action: action.into(),
                    allocation: 64,
                },
            );
            let (support, usage) = Support::parse(&report).unwrap();
            assert_eq!(support == Support::Standard, listed.is_some());
            assert_eq!(usage, listed.map_or(&[][..], |c| c.usage));
        }
    }
}

/// A bit that the usage map has changes what the command means; one that it lacks is ignored, or refused when
/// it is not zero.
#[test]
fn usage_maps_tell_what_is_looked_at() {
    for command in COMMANDS {
        let mut bytes = cdb(&[command.opcode(), command.action.unwrap_or(0) as u8]);
        if command.opcode() == op::SANITIZE {
            // Its reserved bits are looked at to be refused.
            continue;
        }
        let base = Cdb::parse(&bytes).unwrap();
        for bit in 8..command.usage.len() * 8 {
            let (at, mask) = (bit / 8, 1 << (bit % 8));
            let selects_action = command.action.is_some() && at == 1 && mask & 0x1F != 0;
            if selects_action {
                continue;
            }
            bytes[at] ^= mask;
            let changed = Cdb::parse(&bytes);
            if command.usage[at] & mask != 0 {
                assert_ne!(changed, Ok(base), "{:#04x} byte {at} bit {}", command.opcode(), bit % 8);
            } else if changed != Ok(base) {
                let outcome = raw(&mut disk(8), bytes);
                bytes[at] ^= mask;
                let ignored = outcome == raw(&mut disk(8), bytes);
                bytes[at] ^= mask;
                assert!(ignored || refused(&outcome), "{:#04x} byte {at} bit {}", command.opcode(), bit % 8);
            }
            bytes[at] ^= mask;
        }
    }
}

#[test]
fn inquiry_bits_have_their_commands() {
    let mut d = disk(1024);
    let (_, reply) = start(&mut d, Cdb::Inquiry { evpd: false, page: 0, allocation: 96 });
    let inquiry = Inquiry::parse(&reply).unwrap();
    assert_eq!(
        reply[5] & 0x30 != 0,
        !refused(&raw(&mut d, cdb(&[0xA3, 0x0A]))),
        "TPGS: REPORT TARGET PORT GROUPS"
    );
    assert_eq!(reply[5] & 0x20, 0, "explicit states: there is no SET TARGET PORT GROUPS");
    assert!(refused(&raw(&mut d, cdb(&[0xA4, 0x0A]))));
    assert_eq!(inquiry.third_party_copy, !refused(&raw(&mut d, cdb(&[0x83]))), "3PC: EXTENDED COPY");
    assert_eq!(inquiry.third_party_copy, page(&mut d, 0).contains(&0x8F));
    assert_eq!(reply[5] & 0xC1, 0, "SCCS, ACC and PROTECT: nothing of that kind");
    assert_eq!(reply[3] & 0x20, 0, "NORMACA: the CONTROL byte is not looked at");
    for removable in [false, true] {
        let mut d = if removable { disk(8).removable() } else { disk(8) };
        let (_, reply) = start(&mut d, Cdb::Inquiry { evpd: false, page: 0, allocation: 96 });
        let eject = Cdb::StartStop { immed: false, power_condition: 0, loej: true, start: false };
        let ejects = matches!(start(&mut d, eject).0, Outcome::Work(_));
        assert_eq!(reply[1] & 0x80 != 0, removable);
        assert_eq!(ejects, removable, "RMB: the medium comes out");
    }
}

#[test]
fn every_limit_is_the_limit() {
    let mut d = Disk::new(Box::new(RamBackend::new(160 << 20)), 512, "LIMITS").unwrap();
    let limits = BlockLimits::parse(&page(&mut d, 0xB0)).unwrap();
    let mut check_limit = |what: &str, most: u64, make: &dyn Fn(u32) -> Cdb| {
        assert!(most > 0, "{what}");
        let most = u32::try_from(most).unwrap();
        let taken = start(&mut d, make(most)).0;
        assert!(!matches!(taken, Outcome::Done(Status::CHECK_CONDITION, _)), "{what} of {most}: {taken:?}");
        let beyond = check(start(&mut d, make(most + 1)).0);
        assert!(beyond.same_condition(&Sense::INVALID_FIELD), "{what} of {}: {beyond:?}", most + 1);
    };
    let range = |blocks| Transfer { form: Form::Sixteen, ..Transfer::new(0, blocks) };
    check_limit("COMPARE AND WRITE", limits.max_compare_and_write.into(), &|n| {
        Cdb::CompareAndWrite(range(n))
    });
    check_limit("READ", limits.max_transfer.into(), &|n| Cdb::Read(range(n)));
    check_limit("WRITE", limits.max_transfer.into(), &|n| Cdb::Write(range(n)));
    check_limit("ORWRITE", limits.max_transfer.into(), &|n| Cdb::OrWrite(range(n)));
    check_limit("VERIFY", limits.max_transfer.into(), &|n| Cdb::Verify(range(n), Bytchk::Full));
    check_limit("WRITE ATOMIC", limits.max_atomic.into(), &|n| Cdb::WriteAtomic {
        range: range(n),
        boundary: 0,
    });
    check_limit("WRITE SAME", limits.max_write_same, &|n| Cdb::WriteSame {
        range: range(n),
        unmap: true,
        anchor: false,
        no_data_out: false,
    });
    assert!(limits.max_atomic <= limits.max_transfer);
    // No atomic boundary is announced, so none is taken.
    assert_eq!(page(&mut d, 0xB0)[52..60], [0; 8]);
    let bounded = Cdb::WriteAtomic { range: range(8), boundary: 8 };
    assert_eq!(check(start(&mut d, bounded).0), Sense::invalid_cdb_byte(10));
    // UNMAP: blocks and descriptors.
    let list = |count: usize, blocks: u32| {
        let mut list = vec![0; 8 + 16 * count];
        let (all, descriptors) = ((6 + 16 * count) as u16, (16 * count) as u16);
        list[..2].copy_from_slice(&all.to_be_bytes());
        list[2..4].copy_from_slice(&descriptors.to_be_bytes());
        list[16..20].copy_from_slice(&blocks.to_be_bytes());
        list
    };
    let mut unmap = |list: Vec<u8>| {
        let cdb = Cdb::Unmap { anchor: false, parameter_len: list.len() as u16 };
        deliver(&mut d, cdb, &list, list.len())
    };
    let too_much = Err(Refusal::Check(Sense::INVALID_PARAMETER));
    assert!(unmap(list(1, limits.max_unmap_blocks)).is_ok());
    assert_eq!(unmap(list(1, limits.max_unmap_blocks + 1)), too_much);
    assert!(unmap(list(limits.max_unmap_descriptors as usize, 1)).is_ok());
    assert_eq!(unmap(list(limits.max_unmap_descriptors as usize + 1, 1)), too_much);
}

#[test]
fn provisioning_bits_have_their_effect() {
    let mut d = disk(1024);
    let bits = Provisioning::parse(&page(&mut d, 0xB2)).unwrap();
    let flags = page(&mut d, 0xB2)[1];
    let (_, reply) = start(&mut d, Cdb::ReadCapacity16 { allocation: 32 });
    let capacity = Capacity::parse16(&reply).unwrap();
    assert_eq!(capacity.provisioned, !refused(&raw(&mut d, cdb(&[0x9E, 0x12]))), "LBPME: GET LBA STATUS");
    assert_eq!(bits.unmap, !refused(&raw(&mut d, cdb(&[0x42]))), "LBPU: UNMAP");
    assert_eq!(bits.write_same_unmap, !refused(&raw(&mut d, cdb(&[0x93, 0x08]))), "LBPWS");
    assert_eq!(flags & 0x20 != 0, !refused(&raw(&mut d, cdb(&[0x41, 0x08]))), "LBPWS10");
    assert_eq!(flags & 0x02 != 0, !refused(&raw(&mut d, cdb(&[0x42, 0x01]))), "ANC_SUP: UNMAP with ANCHOR");
    assert_eq!(
        flags & 0x02 != 0,
        !refused(&raw(&mut d, cdb(&[0x93, 0x18]))),
        "ANC_SUP: WRITE SAME with ANCHOR"
    );
    // LBPRZ, and the state that GET LBA STATUS tells.
    let state = |d: &mut Disk, lba| {
        let (_, reply) = start(d, Cdb::GetLbaStatus { lba, allocation: 24 });
        reply[20]
    };
    deliver(&mut d, Cdb::Write(Transfer::new(0, 16)), &[7; 8192], 8192).unwrap();
    assert_eq!((state(&mut d, 0), state(&mut d, 16)), (0, 1));
    let zero = Cdb::WriteSame {
        range: Transfer { form: Form::Sixteen, ..Transfer::new(0, 16) },
        unmap: true,
        anchor: false,
        no_data_out: true,
    };
    run_cdb(&mut d, zero).unwrap();
    assert_eq!(state(&mut d, 0), 1, "deallocated");
    assert!(bits.reads_zeros && capacity.reads_zeros);
    assert!(contents(&mut d)[..8192].iter().all(|b| *b == 0));
}

#[test]
fn characteristics_and_extended_inquiry_say_what_is() {
    let mut d = disk(1024);
    let wabereq = page(&mut d, 0xB1)[3] >> 6;
    assert_eq!(wabereq != 0, !refused(&raw(&mut d, cdb(&[0x48, 0x02]))), "WABEREQ: BLOCK ERASE");
    let mut d = disk(1024);
    let wacereq = page(&mut d, 0xB1)[3] >> 4 & 3;
    assert_eq!(wacereq != 0, !refused(&raw(&mut d, cdb(&[0x48, 0x03]))), "WACEREQ: CRYPTO ERASE");
    let extended = page(&mut d, 0x86);
    assert_eq!(extended.len(), 0x3C);
    let (_, caching) = start(&mut d, mode(Form::Six, page::CACHING, 0));
    assert_eq!(extended[2] & 1, caching[14] >> 2 & 1, "V_SUP: a volatile cache");
    assert_eq!((extended[0] & 0x3F, extended[1]), (0, 1), "no protection; simple task attributes");
    // DPOFUA, everywhere that the two bits are.
    let (_, reply) = start(&mut d, mode(Form::Six, page::ALL, 0));
    assert!(ModeParameters::parse(Form::Six, &reply).unwrap().dpo_fua);
    for opcode in [0x28, 0x2A, 0x88, 0x8A, 0x8B, 0x9C, 0xA8, 0xAA, 0x89] {
        assert!(!refused(&raw(&mut d, cdb(&[opcode, 0x18]))), "DPO and FUA in {opcode:#04x}");
        assert!(refused(&raw(&mut d, cdb(&[opcode, 0x20]))), "PROTECT in {opcode:#04x}");
    }
}

/// The Third-party Copy page lists commands that are in the table, and the limits that OPERATING PARAMETERS
/// tells.
#[test]
fn the_copy_page_agrees_with_the_command() {
    let mut d = disk(8);
    let data = page(&mut d, 0x8F);
    assert_eq!(data[..5], [0, 1, 0, 8, 7]);
    let mut commands = &data[5..12];
    while let [opcode, count, rest @ ..] = commands {
        let (actions, more) = rest.split_at(usize::from(*count));
        for action in actions {
            let listed =
                |c: &&crate::scsi::Command| c.opcode() == *opcode && c.action == Some((*action).into());
            assert!(COMMANDS.iter().any(|c| listed(&c)), "{opcode:#04x}/{action:#04x}");
        }
        commands = more;
    }
    let ask = Cdb::ReceiveCopyResults { action: op::SA_COPY_PARAMETERS, list_id: 0, allocation: 512 };
    let (_, limits) = start(&mut d, ask);
    assert_eq!(u32::from_be_bytes(limits[..4].try_into().unwrap()) as usize, limits.len() - 4);
    assert_eq!(data[20..28], limits[8..16], "descriptor limits");
    assert_eq!(limits[43..], [2, 0x02, 0xE4]);
}

/// A reply that does not fit is cut, and its length field goes on saying how long it is.
#[test]
fn lengths_are_true_however_little_is_asked_for() {
    let mut d = disk(1024);
    deliver(&mut d, Cdb::Write(Transfer::new(0, 8)), &[7; 4096], 4096).unwrap();
    let asks: [&dyn Fn(u32) -> Cdb; 8] = [
        &|n| Cdb::Inquiry { evpd: true, page: 0x83, allocation: n as u16 },
        &|n| Cdb::Inquiry { evpd: true, page: 0x8F, allocation: n as u16 },
        &|n| Cdb::Inquiry { evpd: false, page: 0, allocation: n as u16 },
        &|n| Cdb::ReportOpcodes { timeouts: true, options: 0, opcode: 0, action: 0, allocation: n },
        &|n| Cdb::ReportPortGroups { format: 0, allocation: n },
        &|n| Cdb::ReceiveCopyResults { action: op::SA_COPY_PARAMETERS, list_id: 0, allocation: n },
        &|n| Cdb::LogSense { save: false, control: 1, page: 0, subpage: 0, pointer: 0, allocation: n as u16 },
        &|n| Cdb::ModeSense {
            form: Form::Ten,
            dbd: false,
            long_lba: false,
            control: 0,
            page: page::ALL,
            subpage: 0,
            allocation: n as u16,
        },
    ];
    for ask in asks {
        let (_, whole) = start(&mut d, ask(4096));
        for n in 0..whole.len() as u32 + 2 {
            let (outcome, cut) = start(&mut d, ask(n));
            assert_eq!(outcome, Outcome::Reply);
            assert_eq!(cut, whole[..whole.len().min(n as usize)], "{:?}", ask(n));
        }
    }
    // GET LBA STATUS has as many descriptors as there is room for, one at least.
    for (allocation, descriptors) in [(0, 1), (8, 1), (24, 1), (39, 1), (40, 2), (4096, 2)] {
        let (_, reply) = start(&mut d, Cdb::GetLbaStatus { lba: 0, allocation });
        assert_eq!(reply.len(), (8 + 16 * descriptors).min(allocation as usize));
        if reply.len() >= 4 {
            assert_eq!(reply[..4], (4 + 16 * descriptors as u32).to_be_bytes());
        }
    }
}
