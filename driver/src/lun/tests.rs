use super::*;
use iscsi::scsi::{Designator, VpdPage, report_luns};
use std::collections::VecDeque;

type Answer = (Status, Option<Sense>, Vec<u8>);

/// A target with one unit, number 3, as a table of answers.
struct Target {
    version: u8,
    kind: u8,
    capacity: Capacity,
    knows_capacity16: bool,
    knows_report_luns: bool,
    /// Answered before anything else, per operation code.
    scripted: Vec<(u8, VecDeque<Answer>)>,
    asked: Vec<u8>,
    /// Page 83 and the answer to MODE SENSE(10), if others than usual.
    ids: Option<Vec<u8>>,
    mode: Option<Vec<u8>>,
}

const CAPACITY: Capacity =
    Capacity { blocks: 1 << 33, block_size: 512, provisioned: true, reads_zeros: true, physical_exponent: 3 };

fn check(sense: Sense) -> Answer {
    (Status::CHECK_CONDITION, Some(sense), Vec::new())
}

impl Target {
    fn new() -> Self {
        Self {
            version: 6,
            kind: 0,
            capacity: CAPACITY,
            knows_capacity16: true,
            knows_report_luns: true,
            scripted: Vec::new(),
            asked: Vec::new(),
            ids: None,
            mode: None,
        }
    }

    fn script(&mut self, opcode: u8, answers: impl IntoIterator<Item = Answer>) {
        self.scripted.push((opcode, answers.into_iter().collect()));
    }

    fn answer(&mut self, command: &ScsiCommand) -> Answer {
        self.asked.push(command.cdb[0]);
        let scripted = self.scripted.iter_mut().find(|(op, _)| *op == command.cdb[0]);
        if let Some(answer) = scripted.and_then(|(_, answers)| answers.pop_front()) {
            return answer;
        }
        let mut data = Vec::new();
        let present = command.lun.number() == Some(3);
        match Cdb::parse(&command.cdb) {
            Ok(Cdb::ReportLuns { .. }) if self.knows_report_luns => {
                report_luns(Lun::from_number(3).into_iter(), &mut data);
            }
            Ok(Cdb::Inquiry { evpd: false, .. }) if !present => Inquiry::ABSENT.encode(&mut data),
            Ok(Cdb::Inquiry { evpd: false, .. }) => Inquiry {
                qualifier: qualifier::PRESENT,
                device_type: self.kind,
                removable: false,
                version: self.version,
                port_groups: false,
                third_party_copy: false,
                vendor: *b"EXAMPLE ",
                product: *b"disk            ",
                revision: *b"1.0 ",
            }
            .encode(&mut data),
            Ok(Cdb::TestUnitReady | Cdb::StartStop { .. }) if present => {}
            Ok(Cdb::Inquiry { page: vpd::SUPPORTED_PAGES, .. }) => {
                VpdPage::begin(0, &mut data).put(&[0x00, 0x80, 0x83, 0xB0]).end();
            }
            Ok(Cdb::Inquiry { page: vpd::SERIAL_NUMBER, .. }) => {
                VpdPage::begin(vpd::SERIAL_NUMBER, &mut data).put(b"  SN42").end();
            }
            Ok(Cdb::Inquiry { page: vpd::DEVICE_IDENTIFICATION, .. }) if self.ids.is_some() => {
                data.extend(self.ids.iter().flatten());
            }
            Ok(Cdb::ModeSense { form: Form::Ten, .. }) if self.mode.is_some() => {
                data.extend(self.mode.iter().flatten());
            }
            Ok(Cdb::Inquiry { page: vpd::DEVICE_IDENTIFICATION, .. }) => {
                let t10 =
                    Designator { protocol: None, code_set: 2, association: 0, kind: 1, data: b"EXAMPLE x" };
                let naa = Designator { kind: 3, code_set: 1, data: &[0x60, 1, 2, 3, 4, 5, 6, 7], ..t10 };
                let page = VpdPage::begin(vpd::DEVICE_IDENTIFICATION, &mut data);
                page.designator(&t10).designator(&naa).end();
            }
            Ok(Cdb::Inquiry { page: vpd::BLOCK_LIMITS, .. }) => {
                BlockLimits { max_transfer: 64, ..BlockLimits::default() }.encode(&mut data);
            }
            Ok(Cdb::ReadCapacity16 { .. }) if self.knows_capacity16 => self.capacity.encode16(&mut data),
            Ok(Cdb::ReadCapacity10) => self.capacity.encode10(&mut data),
            Ok(Cdb::ModeSense { form: Form::Ten, .. }) => {
                // Header with WP and DPOFUA, then the caching page with WCE.
                data.extend_from_slice(&[0, 26, 0, 0x90, 0, 0, 0, 0]);
                CachingPage { write_cache: true, read_cache_disabled: false }.encode(&mut data);
            }
            _ => return check(Sense::INVALID_OPCODE),
        }
        data.truncate(command.read_len as usize);
        (Status::GOOD, None, data)
    }

    /// Runs the bring-up to its end; returns it and the time it took.
    fn bring_up(&mut self) -> (BringUp, Duration) {
        let (mut b, mut now) = (BringUp::new(), Instant::ZERO);
        for _ in 0..10_000 {
            match b.poll(now) {
                Some(BringUpAction::Submit(command)) => {
                    assert!(command.read_len <= MAX_READ && b.poll(now).is_none());
                    let (status, sense, data) = self.answer(&command);
                    b.answered(0, status, sense, &data, now);
                }
                Some(BringUpAction::WaitUntil(at)) => now = at,
                Some(BringUpAction::Done) => return (b, now - Instant::ZERO),
                Some(BringUpAction::NoAnswer) => panic!("all are answered"),
                None => panic!("a command is out"),
            }
        }
        panic!("does not end");
    }

    fn outcome(&mut self) -> Result<LunInfo, LunError> {
        let (b, _) = self.bring_up();
        b.unit(Lun::from_number(3).unwrap()).cloned()
    }
}

#[test]
fn a_modern_disk_is_described_in_full() {
    let (b, took) = Target::new().bring_up();
    assert_eq!(took, Duration::ZERO);
    let info = b.unit(Lun::from_number(3).unwrap()).unwrap();
    assert_eq!(
        (info.vendor.as_str(), info.product.as_str(), info.revision.as_str()),
        ("EXAMPLE", "disk", "1.0")
    );
    assert_eq!(info.serial.as_deref(), Some("SN42"));
    assert_eq!(info.id.as_deref(), Some("naa.6001020304050607"), "NAA before T10");
    assert_eq!(info.capacity, CAPACITY);
    assert!(info.read_only && info.write_cache && info.fua);
    assert_eq!(info.geometry().command_bytes(), 64 * 512);
    assert_eq!(b.unit(Lun::default()), Err(LunError::Missing));
    // The flat form of the same number is the same unit.
    assert!(b.unit(Lun([0x40, 3, 0, 0, 0, 0, 0, 0])).is_ok());
}

#[test]
fn an_old_disk_is_asked_in_the_old_way() {
    let mut t = Target { version: 4, knows_capacity16: false, ..Target::new() };
    t.capacity.blocks = 1000;
    let info = t.outcome().unwrap();
    assert_eq!((info.capacity.blocks, info.serial), (1000, None));
    assert_eq!(t.asked, [0xA0, 0x12, 0x00, 0x25, 0x5A]);
    // Too large for the short form: the long one is tried whatever the version.
    let mut t = Target { version: 4, ..Target::new() };
    assert_eq!(t.outcome().unwrap().capacity, CAPACITY);
}

#[test]
fn a_new_disk_without_the_long_form_falls_back_and_never_loops() {
    let mut t = Target { knows_capacity16: false, ..Target::new() };
    assert_eq!(
        t.outcome(),
        Err(LunError::Malformed("READ CAPACITY(10)")),
        "too large for the only form it has"
    );
    t.capacity.blocks = 1000;
    assert_eq!(t.outcome().unwrap().capacity.blocks, 1000);
}

#[test]
fn unit_attentions_are_swallowed_up_to_a_limit() {
    let mut t = Target::new();
    t.script(0x00, [Sense::POWER_ON, Sense::NEXUS_LOSS, Sense::COMMANDS_CLEARED].map(check));
    assert!(t.outcome().is_ok());
    let mut t = Target::new();
    t.script(0x00, (0..100).map(|_| check(Sense::POWER_ON)));
    let error = BlockError::Sense(Sense::POWER_ON);
    assert_eq!(t.outcome(), Err(LunError::Command { command: "TEST UNIT READY", error }));
}

#[test]
fn readiness_is_waited_for_with_a_deadline() {
    let becoming_ready = Sense::new(SenseKey::NOT_READY, 4, 1);
    let mut t = Target::new();
    t.script(0x00, (0..3).map(|_| check(becoming_ready)));
    let (b, took) = t.bring_up();
    assert!(b.found()[0].1.is_ok());
    assert_eq!(took, Duration::from_secs(3));

    let mut t = Target::new();
    t.script(0x00, (0..1000).map(|_| check(becoming_ready)));
    let (b, took) = t.bring_up();
    assert_eq!(b.found()[0].1, Err(LunError::NotReady(becoming_ready)));
    assert_eq!(took, READY_TIMEOUT);

    let mut t = Target::new();
    t.script(0x9E, (0..1000).map(|_| (Status::BUSY, None, Vec::new())));
    t.script(0x25, (0..1000).map(|_| (Status::BUSY, None, Vec::new())));
    assert_eq!(t.outcome(), Err(LunError::Busy));
}

#[test]
fn a_stopped_unit_is_started_once() {
    let stopped = Sense::new(SenseKey::NOT_READY, 4, 2);
    let mut t = Target::new();
    t.script(0x00, [stopped, stopped].map(check));
    assert!(t.outcome().is_ok());
    assert_eq!(t.asked.iter().filter(|op| **op == 0x1B).count(), 1);
}

#[test]
fn what_is_no_disk_or_has_no_medium_is_named() {
    assert_eq!(Target { kind: 0x0D, ..Target::new() }.outcome(), Err(LunError::NotADisk(0x0D)));
    let mut t = Target::new();
    t.script(0x00, [check(Sense::new(SenseKey::NOT_READY, 0x3A, 0))]);
    assert_eq!(t.outcome(), Err(LunError::NoMedium));
    let mut t = Target::new();
    t.capacity.block_size = 520;
    assert_eq!(t.outcome(), Err(LunError::BlockSize(520)));
    let mut t = Target::new();
    t.capacity.blocks = u64::MAX / 512 + 1;
    assert_eq!(t.outcome(), Err(LunError::Malformed("READ CAPACITY(16)")), "its size does not fit 64 bits");
    let mut t = Target::new();
    t.script(0x00, [(Status::RESERVATION_CONFLICT, None, Vec::new())]);
    assert_eq!(t.outcome(), Err(LunError::Reserved));
    let mut t = Target::new();
    t.script(0x12, [(Status::GOOD, None, vec![0; 5])]);
    assert_eq!(t.outcome(), Err(LunError::Malformed("INQUIRY")));
}

#[test]
fn without_report_luns_the_units_are_tried_one_by_one() {
    let mut t = Target { knows_report_luns: false, ..Target::new() };
    let (b, _) = t.bring_up();
    assert_eq!(b.found().len(), 1, "absent units are no news");
    assert!(b.unit(Lun::from_number(3).unwrap()).is_ok());
}

#[test]
fn optional_pages_may_fail() {
    let mut t = Target::new();
    t.script(0x5A, [check(Sense::INVALID_OPCODE)]);
    let info = t.outcome().unwrap();
    assert!(!info.read_only && !info.write_cache, "unknown counts as no");
    assert!(t.asked.contains(&0x1A), "the short form was tried");
}

#[test]
fn a_command_without_an_answer_is_repeated_and_then_the_session_is_to_be_recovered() {
    let mut b = BringUp::new();
    b.unanswered();
    let first = b.poll(Instant::ZERO);
    assert!(matches!(first, Some(BringUpAction::Submit(_))), "nothing was out");
    for _ in 0..UNANSWERED_LIMIT {
        b.unanswered();
        assert_eq!(b.poll(Instant::ZERO), first, "the same again");
    }
    b.unanswered();
    assert_eq!(b.poll(Instant::ZERO), Some(BringUpAction::NoAnswer));
    assert_eq!(b.found().len(), 0, "nobody said anything about a unit");
}

#[test]
fn a_page_that_is_not_to_be_had_now_makes_no_other_disk() {
    for opcode in [0x12, 0x00, 0x9E] {
        let mut t = Target::new();
        let busy = (Status::BUSY, None, Vec::new());
        // INQUIRY is asked for the standard data, the list of pages, the serial number and the designators.
        let first: Vec<Answer> = if opcode == 0x12 { vec![t.answer(&inquiry_of_3()); 1] } else { Vec::new() };
        t.script(opcode, first.into_iter().chain(std::iter::repeat_n(busy, 100)));
        assert_eq!(t.outcome(), Err(LunError::Busy), "{opcode:#x}");
        assert!(LunError::Busy.is_passing());
    }
}

fn inquiry_of_3() -> ScsiCommand {
    let read_len = Step::Inquiry.lengths().0;
    ScsiCommand {
        lun: Lun::from_number(3).unwrap(),
        cdb: Step::Inquiry.cdb(read_len).encode().bytes,
        read_len,
    }
}

#[test]
fn a_look_at_one_unit_asks_nobody_else_and_has_little_patience() {
    let mut t = Target::new();
    t.script(0x00, std::iter::repeat_n((Status::BUSY, None, Vec::new()), 100));
    let (mut b, mut now) = (BringUp::of(vec![Lun::from_number(3).unwrap()]), Instant::ZERO);
    loop {
        match b.poll(now) {
            Some(BringUpAction::Submit(c)) => {
                let (status, sense, data) = t.answer(&c);
                b.answered(0, status, sense, &data, now);
            }
            Some(BringUpAction::WaitUntil(at)) => now = at,
            other => break assert_eq!(other, Some(BringUpAction::Done)),
        }
    }
    assert!(!t.asked.contains(&0xA0) && !b.has_list());
    assert_eq!(b.found(), [(Lun::from_number(3).unwrap(), Err(LunError::Busy))]);
    assert!(now - Instant::ZERO <= AGAIN_TIMEOUT);
}

#[test]
fn a_list_beyond_the_limit_is_cut_and_counted() {
    for (count, asked, left_out) in [
        (256, vec![2056], 0),
        (257, vec![2056, 2064], 0),
        (2560, vec![2056, 20_488], 0),
        (4096, vec![2056, MAX_READ], 0),
        (4097, vec![2056, MAX_READ], 1),
        (16_384, vec![2056, MAX_READ], 12_288),
    ] {
        let mut data = Vec::new();
        report_luns((0..count).filter_map(Lun::from_number), &mut data);
        let (mut b, mut asks) = (BringUp::new(), Vec::new());
        while b.step == Step::ReportLuns {
            let Some(BringUpAction::Submit(command)) = b.poll(Instant::ZERO) else { panic!("a command") };
            asks.push(command.read_len);
            let arrived = &data[..data.len().min(command.read_len as usize)];
            b.answered(0, Status::GOOD, None, arrived, Instant::ZERO);
        }
        assert_eq!((asks, b.left_out()), (asked, left_out), "{count} units");
        assert_eq!(b.luns.len(), usize::from(count).min(MAX_LUNS));
    }
}

/// A list that grows whenever it is asked for ends the questions.
#[test]
fn a_list_that_never_stops_growing_is_taken_as_it_is() {
    let (mut b, mut asks) = (BringUp::new(), 0);
    while b.step == Step::ReportLuns {
        let Some(BringUpAction::Submit(command)) = b.poll(Instant::ZERO) else { panic!("a command") };
        let mut data = vec![0; command.read_len as usize];
        data[..4].copy_from_slice(&(command.read_len + 8).to_be_bytes());
        b.answered(0, Status::GOOD, None, &data, Instant::ZERO);
        asks += 1;
    }
    assert_eq!(asks, 1 + u32::from(GROWTH_LIMIT));
}

/// The identifying designator behind 255 bytes of others, and a caching page behind a long block descriptor.
#[test]
fn long_pages_are_read_to_their_end() {
    let mut page = Vec::new();
    let t10 = Designator { protocol: None, code_set: 2, association: 1, kind: 1, data: &[b'x'; 200] };
    let naa = Designator { kind: 3, code_set: 1, association: 0, data: &[0x60, 1, 2, 3, 4, 5, 6, 7], ..t10 };
    VpdPage::begin(vpd::DEVICE_IDENTIFICATION, &mut page)
        .designator(&t10)
        .designator(&t10)
        .designator(&naa)
        .end();
    assert!(page.len() > 255);
    let mut t = Target::new();
    t.ids = Some(page);
    assert_eq!(t.outcome().unwrap().id.as_deref(), Some("naa.6001020304050607"));

    let mut mode = vec![0, 0, 0, 0x90, 0, 0, 0, 80];
    mode.extend([0; 80]);
    CachingPage { write_cache: true, read_cache_disabled: false }.encode(&mut mode);
    mode[1] = mode.len() as u8 - 2;
    let mut t = Target::new();
    t.mode = Some(mode);
    let info = t.outcome().unwrap();
    assert!(info.write_cache && info.read_only);
}

#[test]
fn another_disk_under_the_same_number_is_noticed() {
    let info = Target::new().outcome().unwrap();
    let grown = LunInfo { capacity: Capacity { blocks: CAPACITY.blocks + 1, ..CAPACITY }, ..info.clone() };
    let shrunk = LunInfo { capacity: Capacity { blocks: 1, ..CAPACITY }, ..info.clone() };
    let other = LunInfo { id: Some("naa.6001".into()), ..info.clone() };
    assert!(info.same_disk(&info) && info.same_disk(&grown));
    assert!(!info.same_disk(&shrunk) && !info.same_disk(&other));
}
