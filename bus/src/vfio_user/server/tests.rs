use std::os::fd::{AsFd, OwnedFd};

use os::event::Event as Eventfd;
use proptest::prelude::*;

use super::super::errno::Errno;
use super::super::fuzzing::{Call, run_server};
use super::super::link::Turn;
use super::super::message::*;
use super::super::testing::*;
use super::super::version::PAGE;
use super::super::wire::{CHUNK, OUTBOX_LIMIT};
use super::*;
use crate::config::{MSI_ENABLE, PCIE_DEVICE_CONTROL, PCIE_INITIATE_FLR, STATUS_INTERRUPT};
use crate::pci::DmaFault;

const BASE: u64 = 0x10_0000;

fn eventfd() -> (Eventfd, OwnedFd) {
    let e = Eventfd::new().unwrap();
    let fd = e.as_fd().try_clone_to_owned().unwrap();
    (e, fd)
}

fn install(index: u32, start: u32, count: u32) -> Request<'static> {
    Request::SetIrqs(SetIrqs { flags: SET_EVENTFD | SET_TRIGGER, index, start, count, data: &[] })
}

fn words(p: &[u8]) -> Vec<u32> {
    p.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}

#[test]
fn nothing_works_before_the_version_is_agreed() {
    let mut raw = Raw::detached(Capabilities::default(), |_| ());
    raw.send(Kind::Request, 1, Command::DeviceInfo as u16, &[], Vec::new());
    assert!(raw.answers().is_empty(), "nobody is attached");
    raw.server.attach(&mut raw.world.cx());
    assert_eq!(raw.ask(&Request::DeviceReset, Vec::new()).0, Err(Errno::EINVAL));
    for (major, data) in [(1, &b"{}\0"[..]), (0, b"{}"), (0, b"nonsense\0")] {
        assert_eq!(raw.ask(&Request::Version { major, minor: 0, data }, Vec::new()).0, Err(Errno::EINVAL));
    }
    let (answer, _) = raw.ask(&Request::Version { major: 0, minor: 9, data: &[] }, Vec::new());
    let answer = answer.unwrap();
    assert_eq!(words(&answer)[0], u32::from(MINOR) << 16, "ours, which is lower");
    let offered = Capabilities::decode(&answer[4..]).unwrap();
    assert_eq!(offered, Capabilities { write_multiple: false, slot: false, ..Capabilities::default() });
    let again = Request::Version { major: 0, minor: 0, data: &[] };
    assert_eq!(raw.ask(&again, Vec::new()).0, Err(Errno::EINVAL));
    assert_eq!(raw.server.counters().refused, 5);
}

#[test]
fn the_device_describes_itself_to_qemu() {
    let mut raw = Raw::new();
    assert_eq!(words(&raw.ask(&Request::DeviceInfo, Vec::new()).0.unwrap()), [16, 3, 9, 5]);
    let region = |raw: &mut Raw, index| {
        let (p, fds) = raw.ask(&Request::RegionInfo { argsz: 4096, index }, Vec::new());
        assert!(fds.is_empty());
        p.map(|p| words(&p))
    };
    assert_eq!(region(&mut raw, 0), Ok(vec![32, 3, 0, 0, 32 << 20, 0, 0, 0]));
    assert_eq!(region(&mut raw, 1), Ok(vec![32, 0, 1, 0, 0, 0, 0, 0]), "the upper half of BAR 0");
    assert_eq!(region(&mut raw, 7), Ok(vec![32, 3, 7, 0, 4096, 0, 0, 0]));
    assert_eq!(region(&mut raw, 8), Ok(vec![32, 0, 8, 0, 0, 0, 0, 0]));
    assert_eq!(region(&mut raw, 9), Err(Errno::EINVAL));
    let irq = |raw: &mut Raw, index| raw.ask(&Request::IrqInfo { index }, Vec::new()).0.map(|p| words(&p));
    assert_eq!(irq(&mut raw, 0), Ok(vec![16, 7, 0, 1]));
    assert_eq!(irq(&mut raw, 1), Ok(vec![16, 1, 1, 1]));
    assert_eq!(irq(&mut raw, 2), Ok(vec![16, 1, 2, 9]));
    assert_eq!(irq(&mut raw, 4), Ok(vec![16, 0, 4, 0]));
    assert_eq!(irq(&mut raw, 5), Err(Errno::EINVAL));
    let io = Request::RegionIoFds { argsz: 4096, flags: 0, index: 0 };
    assert_eq!(raw.ask(&io, Vec::new()).0, Err(Errno::EINVAL), "nothing is mapped for this client");
}

#[test]
fn doorbell_pages_are_offered_to_a_client_that_asks() {
    let mut raw = Raw::detached(Capabilities::default(), |_| ());
    raw.greet(&Capabilities::default());
    assert_eq!(words(&raw.ask(&Request::DeviceInfo, Vec::new()).0.unwrap())[2], 10);
    let (short, fds) = raw.ask(&Request::RegionInfo { argsz: 32, index: 0 }, Vec::new());
    assert_eq!((words(&short.unwrap())[..4].to_vec(), fds.len()), (vec![64, 15, 0, 32], 0));
    let (full, fds) = raw.ask(&Request::RegionInfo { argsz: 64, index: 0 }, Vec::new());
    let expected = [64, 15, 0, 32, 32 << 20, 0, 0, 0, 0x1_0001, 0, 1, 0, 0x10000, 0, 16 * 4096, 0];
    assert_eq!((words(&full.unwrap()), fds.len()), (expected.to_vec(), 1));
    let (state, fds) = raw.ask(&Request::RegionInfo { argsz: 64, index: 9 }, Vec::new());
    assert_eq!((words(&state.unwrap())[1], fds.len()), (13, 1));
    let io = |argsz, flags, index| Request::RegionIoFds { argsz, flags, index };
    let (kick, fds) = raw.ask(&io(56, 0, 0), Vec::new());
    assert_eq!(words(&kick.unwrap())[..8], [56, 0, 0, 1, 0x10000, 0, 16 * 4096, 0]);
    assert_eq!(fds.len(), 1);
    let (short, fds) = raw.ask(&io(16, 0, 0), Vec::new());
    assert_eq!((words(&short.unwrap()), fds.len()), (vec![56, 0, 0, 1], 0));
    for bad in [io(56, 1, 0), io(56, 0, 2), io(56, 0, 7), io(56, 0, 9), io(56, 0, 77)] {
        assert_eq!(raw.ask(&bad, Vec::new()).0, Err(Errno::EINVAL));
    }
    assert_eq!(raw.read(9, 0, 8).unwrap(), [raw.server.epoch().0, 0].map(u32::to_le_bytes).concat());
    let write = Request::RegionWrite { region: 9, at: 0, data: &[1] };
    assert_eq!(raw.ask(&write, Vec::new()).0, Err(Errno::EINVAL));
}

#[test]
fn registers_are_read_and_written_in_every_width() {
    let mut raw = Raw::new();
    raw.write(0, STORAGE, &0x1122_3344_5566_7788u64.to_le_bytes());
    assert_eq!(raw.read(0, STORAGE, 8).unwrap(), 0x1122_3344_5566_7788u64.to_le_bytes());
    assert_eq!(raw.read(0, STORAGE, 4).unwrap(), [0x88, 0x77, 0x66, 0x55]);
    assert_eq!(raw.read(0, STORAGE, 2).unwrap(), [0x88, 0x77]);
    assert_eq!(raw.read(0, STORAGE, 1).unwrap(), [0x88]);
    assert_eq!(raw.read(0, 0x2001, 3).unwrap(), [1, 2, 0x20], "cut into a byte and a word");
    assert_eq!(raw.read(0, (32 << 20) - 4, 4).unwrap().len(), 4);
    for (region, at, count) in
        [(0, (32 << 20) - 3, 4), (0, u64::MAX, 2), (1, 0, 4), (6, 0, 1), (8, 0, 1), (9, 0, 4), (77, 0, 4)]
    {
        assert_eq!(raw.read(region, at, count), Err(Errno::EINVAL), "{region} {at:#x}+{count}");
        let data = vec![0; count as usize];
        assert_eq!(
            raw.ask(&Request::RegionWrite { region, at, data: &data }, Vec::new()).0,
            Err(Errno::EINVAL)
        );
    }
    raw.write(7, 4, &[0]);
    assert_eq!(raw.read32(0, STORAGE), !0, "memory decode is off");
    raw.write32(STORAGE, 5);
    raw.write(7, 4, &[6]);
    assert_eq!(raw.read32(0, STORAGE), 0x5566_7788);
}

#[test]
fn config_space_is_read_at_once_and_written_in_parts() {
    let mut raw = Raw::new();
    let all = raw.read(7, 0, 4096).unwrap();
    assert_eq!(words(&all)[0], 0x1639_14e4);
    assert_eq!(words(&all)[0x6c / 4], 0x6c, "the card's own");
    assert!(all[256..].iter().all(|b| *b == 0));
    raw.write(7, u64::from(PRIVATE) + 1, &[0xaa, 0xbb]);
    assert_eq!(raw.read32(7, PRIVATE.into()), 0x00bb_aa00);
    raw.write(7, 0x3c, &[11]);
    assert_eq!(raw.read(7, 0x3c, 2).unwrap(), [11, 1]);
    raw.write(7, 0x10, &[0xff; 8]);
    assert_eq!(raw.read(7, 0x10, 8).unwrap(), [4, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0xff]);
    raw.write(7, 0x200, &[1, 2, 3, 4]);
    assert_eq!(raw.read(7, 4094, 4), Err(Errno::EINVAL));
}

#[test]
fn posted_writes_are_not_answered_and_precede_the_read_behind_them() {
    let mut raw = Raw::new();
    for value in 0..100u32 {
        raw.post(&Request::RegionWrite { region: 0, at: STORAGE, data: &value.to_le_bytes() });
    }
    raw.post(&Request::RegionWrite { region: 5, at: 0, data: &[1] });
    assert!(raw.answers().is_empty());
    assert_eq!(raw.read32(0, STORAGE), 99);
    let order: Vec<_> = raw.seen.writes.borrow().iter().map(|w| w.1).collect();
    assert_eq!(order, (0..100).collect::<Vec<_>>());
    assert_eq!(raw.server.counters().refused, 1, "counted, not answered");
}

#[test]
fn several_writes_in_one_message_keep_their_order() {
    let mut raw = Raw::new();
    let mut entries = Vec::new();
    for v in 1..=3u16 {
        Writes::append(&mut entries, 0, 0x10094, &v.to_le_bytes());
    }
    Writes::append(&mut entries, 0, STORAGE, &[1; 8]);
    let (answer, _) = raw.ask(&Request::RegionWriteMulti(Writes::of(&entries)), Vec::new());
    assert_eq!(answer, Ok(4u64.to_le_bytes().to_vec()));
    assert_eq!(raw.seen.writes.borrow()[..3], [(0x10094, 1), (0x10094, 2), (0x10094, 3)]);
    for count in [0, 9] {
        entries[12] = count;
        let r = raw.ask(&Request::RegionWriteMulti(Writes::of(&entries)), Vec::new());
        assert_eq!(r.0, Err(Errno::EINVAL));
    }
}

#[test]
fn the_card_reaches_what_is_mapped_in_the_direction_that_is_allowed() {
    let mut raw = Raw::new();
    let a = raw.map_both(BASE, 1);
    let b = raw.map(BASE + PAGE, 1, MAP_READ);
    raw.go(BASE + 16, 0);
    assert_eq!(bytes(&a, 16), WRITTEN);
    raw.go(BASE + PAGE, 0);
    assert_eq!(bytes(&b, 0), [0; 12], "read only");
    raw.go(BASE + PAGE - 4, 0);
    assert_eq!(bytes(&a, PAGE as usize - 12), [0; 12], "half of it is read only: nothing is written");
    raw.go(BASE + 1, 0);
    assert_eq!(bytes(&a, 1)[..8], WRITTEN[..8]);
    let unmap = Request::DmaUnmap { flags: 0, addr: BASE, size: PAGE };
    let (echo, _) = raw.ask(&unmap, Vec::new());
    assert_eq!(Request::parse(Command::DmaUnmap as u16, &echo.unwrap(), 0), Ok(unmap));
    a.fill(0, 4096, 0);
    raw.go(BASE + 16, 0);
    assert_eq!(bytes(&a, 16), [0; 12]);
    let unmapped = |addr, len| DmaFault::Unmapped { addr, len };
    let faults = raw.seen.faults.borrow().clone();
    assert_eq!(
        faults,
        [
            unmapped(BASE + PAGE, 8),
            unmapped(BASE + PAGE - 4, 8),
            unmapped(BASE + 9, 4), // a published index is aligned
            unmapped(BASE + 16, 8)
        ]
    );
    assert_eq!(raw.server.counters().dma_refused, 4);
}

#[test]
fn an_access_is_split_where_two_maps_touch() {
    let mut raw = Raw::new();
    let a = raw.map_both(BASE, 1);
    let b = raw.map_both(BASE + PAGE, 1);
    raw.go(BASE + PAGE - 4, 0);
    assert_eq!(bytes(&a, PAGE as usize - 12)[8..], *b"payl");
    assert_eq!(bytes(&b, 0)[..8], *b"oad!\x07\0\0\0");
}

#[test]
fn the_remapping_of_firmware_is_followed() {
    let mut raw = Raw::new();
    let (whole, fd) = shared(0x100);
    let piece = |raw: &mut Raw, flags, page: u64, pages: u64| {
        let map = Request::DmaMap { flags, offset: page * PAGE, addr: page * PAGE, size: pages * PAGE };
        raw.ask(&map, vec![fd.try_clone().unwrap()]).0.unwrap();
    };
    piece(&mut raw, 3, 0, 0x100);
    raw.ask(&Request::DmaUnmap { flags: 0, addr: 0, size: 0x100 * PAGE }, Vec::new()).0.unwrap();
    piece(&mut raw, 3, 0, 0xc0);
    piece(&mut raw, 1, 0xc3, 0x15);
    piece(&mut raw, 3, 0xd8, 0x28);
    for (page, reached) in [(0, true), (0xbf, true), (0xc0, false), (0xc3, false), (0xd8, true), (0xff, true)]
    {
        raw.go(page * PAGE, 0);
        assert_eq!(bytes(&whole, (page * PAGE) as usize) == WRITTEN, reached, "{page:#x}");
    }
}

#[test]
fn maps_that_cannot_be_are_refused() {
    let mut raw = Raw::ready(Capabilities { max_maps: 2, ..Capabilities::default() }, |_| ());
    raw.map_both(BASE, 2);
    let fd = || shared(1).1;
    let map = |flags, offset, addr, size| Request::DmaMap { flags, offset, addr, size };
    for (r, fds, e) in [
        (map(3, 0, BASE + PAGE, PAGE), vec![fd()], Errno::EEXIST),
        (map(0, 0, 0, PAGE), vec![fd()], Errno::EINVAL),
        (map(7, 0, 0, PAGE), vec![fd()], Errno::EINVAL),
        (map(3, 0, 0, 0), vec![fd()], Errno::EINVAL),
        (map(3, 0, 0, 2 * PAGE), vec![fd()], Errno::EINVAL), // longer than the file
        (map(3, PAGE, 0, PAGE), vec![fd()], Errno::EINVAL),
        (map(3, 1, 0, PAGE), vec![fd()], Errno::EINVAL),
        (map(3, 0, 0, PAGE), vec![fd(), fd()], Errno::EINVAL),
        (map(3, 0, 0, PAGE), vec![eventfd().1], Errno::EINVAL),
    ] {
        assert_eq!(raw.ask(&r, fds).0, Err(e), "{r:?}");
    }
    assert_eq!(raw.ask(&map(1, 0, 0, PAGE), Vec::new()).0, Ok(Vec::new()), "a ROM, without a file");
    assert_eq!(raw.ask(&map(1, 0, 64 * PAGE, PAGE), Vec::new()).0, Err(Errno::ENOSPC));
    let unmap = |flags, addr, size| Request::DmaUnmap { flags, addr, size };
    for (r, e) in [
        (unmap(0, BASE, PAGE), Errno::ENOENT),
        (unmap(0, BASE + PAGE, PAGE), Errno::ENOENT),
        (unmap(1, BASE, 2 * PAGE), Errno::EINVAL),
        (unmap(UNMAP_ALL, BASE, 2 * PAGE), Errno::EINVAL),
    ] {
        assert_eq!(raw.ask(&r, Vec::new()).0, Err(e), "{r:?}");
    }
    assert_eq!(raw.server.holdings().maps, 2);
    raw.ask(&unmap(UNMAP_ALL, 0, 0), Vec::new()).0.unwrap();
    assert_eq!(raw.server.holdings().maps, 0);
}

#[test]
fn memory_without_a_file_is_out_of_reach_inside_an_access() {
    let mut raw = Raw::new();
    let map = Request::DmaMap { flags: 3, offset: 0, addr: BASE, size: PAGE };
    raw.ask(&map, Vec::new()).0.unwrap();
    raw.go(BASE, 0);
    assert_eq!(*raw.seen.faults.borrow(), [DmaFault::Unmapped { addr: BASE, len: 8 }]);
}

#[test]
fn interrupts_reach_their_eventfds() {
    let mut raw = Raw::new();
    let (msi, fd) = eventfd();
    raw.map_both(BASE, 1);
    raw.go(BASE, 3);
    raw.write(7, 0x58, &MSI_ENABLE.to_le_bytes());
    raw.go(BASE, 3);
    raw.ask(&install(IRQ_MSI, 0, 1), vec![fd]).0.unwrap();
    assert!(msi.take(), "pending since it was enabled");
    raw.go(BASE, 5);
    assert!(msi.take());
    raw.write(7, 4, &[2]);
    raw.go(BASE, 5);
    assert!(!msi.take(), "a message is a DMA write");
    raw.write(7, 4, &[6]);
    raw.write(7, 0x58, &0u32.to_le_bytes());
    raw.ask(&Request::SetIrqs(SetIrqs { flags: 0x21, index: 1, start: 0, count: 0, data: &[] }), Vec::new())
        .0
        .unwrap();
    let (x, fd) = eventfd();
    raw.ask(&install(IRQ_MSIX, 5, 1), vec![fd]).0.unwrap();
    raw.go(BASE, 5);
    assert!(x.take() && !msi.take());
    assert_eq!(raw.ask(&install(IRQ_MSIX, 9, 1), vec![eventfd().1]).0, Err(Errno::EINVAL));
}

#[test]
fn the_level_is_gated_by_config_space_and_shown_there() {
    let mut raw = Raw::new();
    let (e, fd) = eventfd();
    raw.ask(&install(IRQ_INTX, 0, 1), vec![fd]).0.unwrap();
    raw.write(7, 4, &0x406u32.to_le_bytes());
    raw.write32(LEVEL, 1);
    assert!(!e.take(), "INTx is off");
    assert_ne!(raw.read32(7, 4) & STATUS_INTERRUPT, 0);
    assert_eq!(raw.read32(0, MIRROR), raw.read32(7, 4), "the card may mirror config space");
    raw.write(7, 4, &6u32.to_le_bytes());
    assert!(e.take());
    let unmask = SetIrqs { flags: SET_NONE | SET_UNMASK, index: 0, start: 0, count: 1, data: &[] };
    raw.ask(&Request::SetIrqs(unmask), Vec::new()).0.unwrap();
    assert!(e.take());
    raw.write32(LEVEL, 0);
    raw.ask(&Request::SetIrqs(unmask), Vec::new()).0.unwrap();
    assert!(!e.take());
}

#[test]
fn every_reset_ends_the_epoch() {
    let mut raw = Raw::ready(Capabilities::default(), |toy| toy.clings = true);
    let memory = raw.map_both(BASE, 1);
    raw.go(BASE, 0);
    assert_eq!(bytes(&memory, 0), WRITTEN);
    let first = raw.server.epoch();
    raw.write32(RESET, 1);
    assert!(raw.server.epoch() > first);
    memory.fill(0, 4096, 0);
    raw.go(BASE, 0);
    assert_eq!(*raw.seen.faults.borrow(), [DmaFault::Revoked]);
    raw.write(7, 0xac + u64::from(PCIE_DEVICE_CONTROL), &PCIE_INITIATE_FLR.to_le_bytes());
    assert_eq!(raw.read(7, 4, 1).unwrap(), [6], "a function level reset leaves the switches of config space");
    assert_eq!(raw.ask(&Request::DeviceReset, Vec::new()).0, Ok(Vec::new()));
    assert_eq!(raw.read(7, 4, 1).unwrap(), [0]);
    assert_eq!(raw.server.epoch().0, first.0 + 3);
    let kinds = [ResetKind::LostConnection, ResetKind::Device, ResetKind::Flr, ResetKind::Device];
    assert_eq!(*raw.seen.resets.borrow(), kinds[1..]);
    assert_eq!(raw.server.counters().resets_without_revoke, 0);
    assert_eq!(bytes(&memory, 0), [0; 12]);
}

#[test]
fn a_card_that_forgets_to_revoke_is_revoked() {
    let mut raw = Raw::ready(Capabilities::default(), |toy| toy.revokes = false);
    let before = raw.server.epoch();
    raw.ask(&Request::DeviceReset, Vec::new()).0.unwrap();
    assert_eq!(raw.server.counters().resets_without_revoke, 1);
    assert!(raw.server.epoch() > before);
}

#[test]
fn the_next_client_finds_a_fresh_function_and_nothing_of_the_last() {
    let mut raw = Raw::new();
    let memory = raw.map_both(BASE, 1);
    let (e, fd) = eventfd();
    raw.ask(&install(IRQ_MSIX, 0, 1), vec![fd]).0.unwrap();
    raw.write32(STORAGE, 5);
    raw.write(7, 0x10, &[0xff; 4]);
    raw.send(Kind::Request, 1, 9, &[0; 3], Vec::new());
    raw.server.detach(&mut raw.world.cx());
    assert_eq!(*raw.seen.resets.borrow(), [ResetKind::LostConnection]);
    assert_eq!(raw.server.holdings(), Holdings { maps: 0, unsent: 0, deferred: 0 });
    raw.greet(&Capabilities { slot: false, ..Capabilities::default() });
    assert_eq!(raw.read32(7, 0x10), 4);
    assert_eq!(raw.read32(0, STORAGE), 0);
    raw.go(BASE, 0);
    assert_eq!(bytes(&memory, 0), [0; 12]);
    assert!(!e.take());
}

#[test]
fn what_is_wrong_with_a_message_is_answered_and_the_next_one_served() {
    let mut raw = Raw::ready(Capabilities { max_data: 4096, max_fds: 2, ..Capabilities::default() }, |_| ());
    let null = || std::fs::File::open("/dev/null").unwrap().into();
    for (command, payload, fds, e) in [
        (99, vec![1, 2, 3], Vec::new(), Errno::EOPNOTSUPP),
        (Command::DmaRead as u16, vec![1; 16], Vec::new(), Errno::EINVAL),
        (Command::DmaRead as u16, [0u64, 8].map(u64::to_le_bytes).concat(), Vec::new(), Errno::EOPNOTSUPP),
        (Command::RegionRead as u16, vec![0; 5], Vec::new(), Errno::EINVAL),
        (Command::RegionWrite as u16, vec![0; 5000], Vec::new(), Errno::EMSGSIZE),
        (Command::RegionWrite as u16, vec![0; 3 << 20], vec![null()], Errno::EMSGSIZE),
        (Command::DeviceReset as u16, Vec::new(), vec![null()], Errno::EINVAL),
        (Command::DeviceReset as u16, Vec::new(), vec![null(), null(), null()], Errno::ETOOMANYREFS),
        (
            Command::DeviceInfo as u16,
            [16u32, 0, 0, 0].map(u32::to_le_bytes).concat(),
            vec![null()],
            Errno::EINVAL,
        ),
        (Command::SetIrqs as u16, vec![20; 20], Vec::new(), Errno::EINVAL),
    ] {
        let (answer, _) = raw.ask_raw(command, &payload, fds);
        assert_eq!(answer, Err(e), "command {command} with {}", payload.len());
        assert_eq!(raw.read32(0, 0x44), 0x44, "after command {command}");
    }
    raw.send(Kind::Unknown, 7, 9, &[], Vec::new());
    assert_eq!(raw.answers()[0].1.0, Err(Errno::EINVAL));
    raw.send(Kind::Reply, 7, Command::DmaRead as u16, &[0; 20], Vec::new());
    raw.send(Kind::Failed(Errno::EIO), 7, Command::DmaWrite as u16, &[], Vec::new());
    assert!(raw.answers().is_empty());
    assert_eq!(raw.server.counters().strays, 2);
    assert!(!raw.server.is_broken());
    raw.server.receive(&mut raw.world.cx(), &[0; 16], []);
    assert!(raw.server.is_broken(), "a size of zero");
}

#[test]
fn nothing_is_read_while_too_many_answers_wait() {
    let mut raw = Raw::new();
    let read = Request::RegionRead { region: 7, at: 0, count: 4096 };
    let mut payload = Vec::new();
    read.encode(&mut payload);
    let mut sent = 0;
    while raw.server.room() > 0 {
        raw.send(Kind::Request, sent, Command::RegionRead as u16, &payload, Vec::new());
        sent += 1;
        assert!(raw.server.holdings().unsent < OUTBOX_LIMIT + 4096 + 64);
    }
    assert!(u64::from(sent) * 4096 >= OUTBOX_LIMIT as u64 - 4096);
    assert_eq!(raw.answers().len(), usize::from(sent));
    assert_eq!(raw.server.room(), CHUNK);
}

#[test]
fn mapped_doorbells_reach_the_card_in_order_with_messages() {
    let mut raw = Raw::detached(Capabilities::default(), |_| ());
    raw.greet(&Capabilities::default());
    let (_, fds) = raw.ask(&Request::RegionInfo { argsz: 64, index: 0 }, Vec::new());
    let mapping = os::shm::Mapping::new(fds[0].as_fd(), DOORBELLS, 16 * 4096, true).unwrap();
    let pages = crate::mem::SharedMem::window(&std::rc::Rc::new(mapping), 0, 16 * 4096);
    raw.seen.writes.borrow_mut().clear();
    pages.store16(2 * 4096 + 4, 7);
    raw.write32(STORAGE, 1);
    assert_eq!(*raw.seen.writes.borrow(), [(DOORBELLS + 2 * 4096 + 4, 7), (STORAGE, 1)]);
    pages.store16(2 * 4096 + 4, 8);
    let p = raw.server.step(&mut raw.world.cx(), Budget(1), None);
    assert_eq!((p.done, raw.seen.writes.borrow()[2]), (1, (DOORBELLS + 2 * 4096 + 4, 8)));
    pages.store16(9 * 4096 + 8, 1);
    assert!(!raw.server.park(&mut raw.world.cx()), "rung before it could know");
    assert!(raw.server.park(&mut raw.world.cx()));
    raw.write32(RESET, 1);
    raw.seen.writes.borrow_mut().clear();
    pages.store16(2 * 4096 + 4, 9);
    raw.server.step(&mut raw.world.cx(), Budget(1), None);
    assert_eq!(raw.read32(0, 0), 0);
    assert!(raw.seen.writes.borrow().is_empty(), "stored after the reset");
}

/// A client whose memory is asked for while it says what a test wants.
struct Asked<F> {
    /// What to say at each turn, given the requests that arrived with it; `None`: nothing.
    say: F,
    turns: u32,
    waited: Instant,
}

impl<F: FnMut(&mut Asked<()>, &[(Header, Vec<u8>)], &mut Inbox) -> Turn> Link for Asked<F> {
    fn turn(&mut self, out: &mut Outbox, into: &mut Inbox, until: Instant) -> Turn {
        let mut requests = Inbox::new(1 << 20, 1);
        let mut seen = Vec::new();
        while !out.is_empty() {
            let n = out.chunk().0.len().min(CHUNK);
            requests.push(&out.chunk().0[..n], []);
            out.advance(n);
            while let Some(f) = requests.pop().unwrap() {
                seen.push((f.header, f.payload.to_vec()));
            }
        }
        self.turns += 1;
        self.waited = until;
        let mut view = Asked { say: (), turns: self.turns, waited: until };
        (self.say)(&mut view, &seen, into)
    }
}

fn asked<F: FnMut(&mut Asked<()>, &[(Header, Vec<u8>)], &mut Inbox) -> Turn>(say: F) -> Asked<F> {
    Asked { say, turns: 0, waited: Instant::ZERO }
}

fn tell(into: &mut Inbox, header: Header, payload: &[u8]) {
    let mut out = Outbox::default();
    out.put(header, Vec::new(), |p| p.extend_from_slice(payload));
    into.push(out.chunk().0, []);
}

fn request(r: &Request<'_>, id: u16) -> (Header, Vec<u8>) {
    let mut payload = Vec::new();
    r.encode(&mut payload);
    (Header { id, command: r.command() as u16, kind: Kind::Request }, payload)
}

/// A card that will ask for memory that is not shared, in its next step.
fn asking() -> Raw {
    let mut raw = Raw::new();
    let map = Request::DmaMap { flags: 3, offset: 0, addr: BASE, size: PAGE };
    raw.ask(&map, Vec::new()).0.unwrap();
    raw.write32(TARGET_LO, BASE as u32);
    raw.write32(GO_LATER, 0);
    raw.seen.writes.borrow_mut().clear();
    raw
}

fn step(raw: &mut Raw, link: &mut dyn Link) {
    raw.server.step(&mut raw.world.cx(), Budget(8), Some(link));
}

#[test]
fn a_client_that_does_not_hand_over_its_memory_in_time_is_lost() {
    let mut raw = asking();
    raw.world.now = Instant::from_nanos(7);
    let mut link = asked(|_, _, _| Turn::TimedOut);
    step(&mut raw, &mut link);
    assert_eq!((link.waited, link.turns), (Instant::from_nanos(7) + DMA_DEADLINE, 1));
    assert_eq!(*raw.seen.faults.borrow(), [DmaFault::Unmapped { addr: BASE, len: 8 }]);
    assert!(raw.server.is_broken() && raw.server.counters().dma_timeouts == 1);
    let mut raw = asking();
    step(&mut raw, &mut asked(|_, _, _| Turn::Lost));
    assert!(raw.server.is_broken() && raw.server.counters().dma_timeouts == 0);
}

#[test]
fn an_answer_that_does_not_fit_fails_the_access_alone() {
    let nonsense: [(Kind, &[u8]); 4] = [
        (Kind::Failed(Errno::EFAULT), &[]),
        (Kind::Reply, &[]),
        (Kind::Reply, &[0; 24]),
        (Kind::Reply, &[0; 23]),
    ];
    for (kind, payload) in nonsense {
        let mut raw = asking();
        let mut link = asked(|_, seen, into| {
            tell(into, Header { kind, ..seen[0].0 }, payload);
            Turn::Moved
        });
        step(&mut raw, &mut link);
        assert_eq!(raw.seen.faults.borrow().len(), 1, "{kind:?}");
        assert!(!raw.server.is_broken());
        assert_eq!(raw.read32(0, 0x44), 0x44);
    }
}

#[test]
fn requests_during_a_wait_are_served_or_keep_their_order() {
    let mut raw = asking();
    let mut answers = Vec::new();
    let mut link = asked(|me, seen, into| {
        let asked = seen.iter().find(|(h, _)| h.kind == Kind::Request).cloned();
        answers.extend(seen.iter().filter(|(h, _)| h.kind != Kind::Request).map(|(h, _)| h.id));
        if me.turns == 1 {
            let all = [
                request(&Request::IrqInfo { index: 0 }, 100),
                request(&Request::RegionWrite { region: 0, at: STORAGE, data: &[1] }, 101),
                request(&Request::IrqInfo { index: 1 }, 102),
                request(&Request::RegionWrite { region: 0, at: STORAGE, data: &[2] }, 103),
            ];
            all.iter().for_each(|(h, p)| tell(into, *h, p));
        }
        if let Some((h, p)) = asked {
            let mut reply = p[..16].to_vec();
            if h.command == Command::DmaRead as u16 {
                reply.extend_from_slice(b"faraway!");
            }
            tell(into, Header { kind: Kind::Reply, ..h }, &reply);
        }
        Turn::Moved
    });
    step(&mut raw, &mut link);
    assert!(raw.seen.faults.borrow().is_empty());
    assert_eq!(answers, [100], "served at once; behind a request that needs the card everything waits");
    let later: Vec<_> = raw.answers().iter().map(|(h, _)| h.id).collect();
    assert_eq!(later, [101, 102, 103]);
    assert_eq!(*raw.seen.writes.borrow(), [(STORAGE, 1), (STORAGE, 2)]);
}

#[test]
fn requests_that_wait_for_the_card_have_a_limit() {
    let mut raw = asking();
    let mut link = asked(|me, _, into| {
        for _ in 0..100 {
            let (header, payload) = request(&Request::RegionWrite { region: 0, at: STORAGE, data: &[1] }, 5);
            tell(into, Header { kind: Kind::Posted, ..header }, &payload);
        }
        assert!(me.turns <= 3);
        Turn::Moved
    });
    step(&mut raw, &mut link);
    assert_eq!(link.turns, 3);
    assert_eq!(raw.seen.faults.borrow().len(), 1, "the wait ended");
    assert_eq!(raw.seen.writes.borrow().len(), 300, "and nothing that arrived was dropped");
    assert!(!raw.server.is_broken());
    assert_eq!(raw.server.holdings().deferred, 0);
}

#[test]
fn a_map_may_go_away_while_its_memory_is_asked_for() {
    let mut raw = asking();
    let mut link = asked(|_, seen, into| {
        let (h, p) = request(&Request::DmaUnmap { flags: 0, addr: BASE, size: PAGE }, 9);
        tell(into, h, &p);
        let mut reply = seen[0].1.clone();
        reply.extend_from_slice(b"faraway!");
        tell(into, Header { kind: Kind::Reply, ..seen[0].0 }, &reply);
        Turn::Moved
    });
    step(&mut raw, &mut link);
    assert_eq!(*raw.seen.faults.borrow(), [DmaFault::Unmapped { addr: BASE + 64, len: 8 }]);
    assert_eq!(raw.server.holdings().maps, 0);
}

/// A whole session as one byte stream: greeting, maps, registers, interrupts, a reset.
fn script() -> Vec<(Vec<u8>, usize)> {
    let greeting = Capabilities { slot: false, ..Capabilities::default() }.encode();
    let mut out = Outbox::default();
    let mut all = Vec::new();
    let mut say = |r: &Request<'_>, kind, fds| {
        out.put(Header { id: 1, command: r.command() as u16, kind }, Vec::new(), |p| r.encode(p));
        let bytes = out.chunk().0.to_vec();
        out.advance(bytes.len());
        all.push((bytes, fds));
    };
    say(&Request::Version { major: 0, minor: 0, data: &greeting }, Kind::Request, 0);
    say(&Request::DmaMap { flags: 3, offset: 0, addr: BASE, size: PAGE }, Kind::Request, 1);
    say(&Request::RegionWrite { region: 7, at: 4, data: &[6, 0] }, Kind::Posted, 0);
    say(
        &Request::RegionWrite { region: 0, at: TARGET_LO, data: &(BASE as u32).to_le_bytes() },
        Kind::Posted,
        0,
    );
    say(&Request::RegionWrite { region: 0, at: GO, data: &[0; 4] }, Kind::Posted, 0);
    say(&Request::RegionRead { region: 0, at: TARGET_LO, count: 4 }, Kind::Request, 0);
    say(&Request::DeviceReset, Kind::Request, 0);
    all
}

#[test]
fn a_client_may_leave_after_any_byte() {
    let whole: usize = script().iter().map(|(b, _)| b.len()).sum();
    let mut raw = Raw::detached(Capabilities::default(), |_| ());
    for leave in 0..=whole {
        let (memory, fd) = shared(1);
        raw.server.attach(&mut raw.world.cx());
        let mut left = leave;
        for (message, fds) in script() {
            let n = message.len().min(left);
            let fds = (0..fds).map(|_| fd.try_clone().unwrap()).collect::<Vec<_>>();
            raw.server.receive(&mut raw.world.cx(), &message[..n], fds);
            left -= n;
        }
        raw.server.detach(&mut raw.world.cx());
        assert_eq!(raw.server.holdings(), Holdings { maps: 0, unsent: 0, deferred: 0 }, "after {leave}");
        assert_eq!(raw.seen.resets.borrow_mut().pop(), Some(ResetKind::LostConnection));
        drop(fd);
        assert!(bytes(&memory, 0) == WRITTEN || leave < whole - 40, "after {leave}");
    }
    raw.greet(&Capabilities::default());
    assert_eq!(raw.read32(0, 0x44), 0x44);
}

fn any_request() -> impl Strategy<Value = (u16, u8, Vec<u8>, usize)> {
    let value =
        prop_oneof![0..10u32, Just(0x58), Just(BASE as u32), Just(4096), Just(PAGE as u32 * 3), any::<u32>()];
    let words = proptest::collection::vec(value, 0..9)
        .prop_map(|w| w.into_iter().flat_map(u32::to_le_bytes).collect());
    let sized = (words, any::<bool>()).prop_map(|(mut p, fix): (Vec<u8>, bool)| {
        if fix && p.len() >= 4 {
            let n = p.len() as u32;
            p[..4].copy_from_slice(&n.to_le_bytes());
        }
        p
    });
    (0..20u16, 0..4u8, sized, 0..3usize)
}

proptest! {
    #[test]
    fn any_requests_are_answered(messages in proptest::collection::vec(any_request(), 1..40)) {
        let call = |(command, kind, payload, fds)| Call::Message { kind, command, payload, fds };
        run_server(&messages.into_iter().map(call).collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_leave_a_server_that_serves_the_next_client(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..64), 1..30),
    ) {
        let mut raw = Raw::new();
        for p in pieces {
            raw.server.receive(&mut raw.world.cx(), &p, []);
        }
        raw.greet(&Capabilities::default());
        prop_assert_eq!(raw.read32(0, 0x44), 0x44);
    }
}
