//! What a broken host or target writes ends in a status and a counter: never in a panic, an endless loop, or
//! bytes outside a task's buffer.

use hsi::iscsi::sq::{SqOpcode, Sqe};
use iscsi::pdu::Bhs;
use proptest::prelude::*;

use super::super::*;
use super::rig::{DATA, ID, INIT, PARAMS, Rig};
use crate::tcp::memory::MemoryNet;
use crate::testing::BASE;

/// A change to a sound write of 4096 bytes in four pieces that makes it unsound, and the status.
struct Case(&'static str, u32, fn(&mut Rig, &mut hsi::iscsi::sq::CmdRequest));

const CASES: &[Case] = &[
    Case("no opcode", 1, |_, w| w.op_code = SqOpcode(0x1f)),
    Case("an index beyond the tasks", 4, |_, w| w.itt = hsi::iscsi::bits::Itt::from_raw(0x4040)),
    Case("the reserved tag", 4, |_, w| w.itt = hsi::iscsi::bits::Itt::RESERVED),
    Case("both directions", 4, |_, w| w.op_attr |= 0x60),
    Case("data without a direction", 4, |_, w| w.op_attr = 1),
    Case("no list", 4, |_, w| w.num_bds = 0),
    Case("33 descriptors", 4, |_, w| w.num_bds = 33),
    Case("a list outside memory", 4, |_, w| w.set_bd_list_addr(0x10)),
    Case("a list at the end of everything", 4, |_, w| w.set_bd_list_addr(u64::MAX - 8)),
    Case("LAST missing", 4, |_, w| w.num_bds = 3),
    Case("more data than buffer", 4, |_, w| w.total_data_transfer_length = hsi::U32::new(4097)),
    Case("a wrong position of the unsolicited data", 4, |_, w| w.ud_start_bd_index += 1),
    Case("a wrong offset of the solicited data", 4, |_, w| w.sd_buffer_offset = hsi::U16::new(9)),
    Case("a position outside the list", 4, |_, w| w.sd_start_bd_index = 200),
    Case("an empty piece", 4, |rig, w| {
        let list = rig.list(DATA, &[1000, 0, 3000, 96]);
        w.set_bd_list_addr(list);
    }),
    Case("a piece outside memory", 4, |rig, w| {
        let list = rig.list(0xffff_ffff_0000_0000, &[1000, 1000, 2000, 96]);
        w.set_bd_list_addr(list);
    }),
];

fn params() -> UpdateParams {
    UpdateParams { initial_r2t: false, max_send_pdu: 512, first_burst: 2048, ..PARAMS }
}

#[test]
fn entries_that_make_no_sense_end_the_connection() {
    for Case(name, status, change) in CASES {
        let mut rig = Rig::full_feature(params());
        let mut w = rig.command(1, true, DATA, &[1000, 1000, 2000, 96]);
        change(&mut rig, &mut w);
        rig.post(w);
        assert_eq!(rig.take_reports(), [EngineEvent::IscsiError(ID, *status)], "{name}");
        let counters = *rig.engine.counters();
        assert_eq!(counters.bad_wqes + counters.dma_faults, 1, "{name}");
        // Nothing of it went out, and nothing after it does.
        let w = rig.command(2, false, DATA, &[]);
        rig.post(w);
        assert!(rig.received().is_empty(), "{name}");
    }
    // The unchanged entry is sound; its tag is taken from then on.
    let mut rig = Rig::full_feature(params());
    let w = rig.command(1, true, DATA, &[1000, 1000, 2000, 96]);
    rig.post(w);
    assert_eq!(rig.take_reports(), []);
    rig.post(w);
    assert_eq!(rig.take_reports(), [EngineEvent::IscsiError(ID, 4)]);
}

/// Everything outside the data area and the rings keeps its bytes.
fn assert_untouched(rig: &Rig) {
    let lists = rig.read(BASE + 0x48000, 0x7000);
    assert!(lists.iter().all(|&b| b == 0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn any_sq_entries_are_survived(
        entries in prop::collection::vec((prop::array::uniform32(any::<u8>()), prop::array::uniform32(any::<u8>()), 0usize..12, any::<bool>()), 1..20),
        update in any::<bool>(),
    ) {
        let mut rig = Rig::connected();
        if update {
            rig = rig.update(params());
        }
        for (low, high, opcode, sane) in entries {
            let mut bytes = [0; 64];
            bytes[..32].copy_from_slice(&low);
            bytes[32..].copy_from_slice(&high);
            const OPCODES: [u8; 11] = [0, 1, 1, 4, 7, 0x40, 0x42, 0x43, 0x44, 0x46, 7];
            if let Some(&op) = OPCODES.get(opcode) {
                bytes[3] = op;
            }
            if sane {
                // A list that exists and a tag in range, so that more of the rest is looked at.
                let list = rig.list(DATA, &[u16::from(low[5]) + 1, 4096]);
                bytes[52..56].copy_from_slice(&(list as u32).to_le_bytes());
                bytes[56..60].copy_from_slice(&((list >> 32) as u32).to_le_bytes());
                bytes[60] = 2;
                bytes[16] &= 0x3f;
                bytes[17] &= 0xc0;
                bytes[22..24].fill(0);
                bytes[6..8].fill(0);
            }
            rig.post(Raw(Sqe { sqe_byte: bytes }));
        }
        rig.received();
        let answer = rig.encode(Bhs::from_bytes(&[0x21; 48]), &[]);
        rig.send_bytes(&answer);
        assert_untouched(&rig);
    }

    #[test]
    fn any_received_bytes_are_survived(
        chunks in prop::collection::vec((prop::array::uniform32(any::<u8>()), any::<u8>(), 0usize..10, 0usize..700), 1..30),
        mask in any::<u64>(),
        update in any::<bool>(),
        digests in any::<bool>(),
        budget in 1u32..5,
    ) {
        let init = InitParams { warning_mask: mask | 0x0fff_ffff_ffff_fff8, ..INIT };
        let mut rig = Rig::with(init, MemoryNet::default()).connect();
        if update {
            rig = rig.update(UpdateParams { data_digest: digests, ..params() });
        }
        rig.budget = budget;
        let (read, write) = (rig.command(1, false, DATA, &[700, 33, 4000]), rig.command(2, true, DATA + 0x10000, &[60_000]));
        let login = rig.login_request(b"a=b\0");
        rig.post(read);
        rig.post(write);
        rig.post(login);
        for (noise, opcode, kind, len) in chunks {
            // Headers that are nearly right get further than noise.
            const OPCODES: [u8; 10] = [0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3f];
            let mut bytes = [0; 48];
            bytes[16..48].copy_from_slice(&noise);
            bytes[0] = OPCODES[kind];
            bytes[1] = opcode;
            if noise[0] & 1 == 0 {
                bytes[16..20].copy_from_slice(&[0, 0, if noise[0] & 2 == 0 { 0 } else { 0x40 }, 1 + (noise[0] >> 7)]);
            }
            if noise[0] & 4 == 0 {
                bytes[36..40].copy_from_slice(&[0, 0, 0, noise[20] & 3]);
                bytes[40..44].copy_from_slice(&[0, 0, noise[24] & 15, noise[25]]);
                bytes[44..48].copy_from_slice(&[0, 0, noise[28] & 15, noise[29]]);
            }
            rig.send(Bhs::from_bytes(&bytes), &vec![opcode; len]);
            while rig.reap().is_some() {}
            rig.return_rq(noise[1] as u16 % 3);
        }
        rig.received_bytes();
        // The gaps between the pieces of the read are nobody's.
        prop_assert_eq!(rig.read(DATA + 700, 3), [0; 3]);
        prop_assert_eq!(rig.read(DATA + 736, 3), [0; 3]);
        prop_assert!(rig.read(DATA + 0x10000, 60_000).iter().all(|&b| b == 0), "a write's buffer is only read");
        assert_untouched(&rig);
    }
}

/// An entry of any bytes.
struct Raw(Sqe);

impl hsi::View<Sqe> for Raw {
    fn of(_: &Sqe) -> &Self {
        unreachable!("only posted")
    }

    fn of_mut(_: &mut Sqe) -> &mut Self {
        unreachable!("only posted")
    }

    fn into_element(self) -> Sqe {
        self.0
    }
}
