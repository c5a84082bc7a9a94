use super::*;
use proptest::prelude::*;

fn transfer(form: Form, lba: u64, blocks: u32) -> Transfer {
    Transfer { form, lba, blocks, protect: 0, dpo: false, fua: false }
}

#[test]
fn bytes_as_the_standards_print_them() {
    let read6 = Cdb::Read(transfer(Form::Six, 0x1F_0203, 256)).encode();
    assert_eq!((&read6.bytes[..6], read6.len), (&[0x08, 0x1F, 2, 3, 0, 0][..], 6));
    let write10 = Cdb::Write(Transfer { fua: true, ..transfer(Form::Ten, 0x0102_0304, 0x0506) }).encode();
    assert_eq!((&write10.bytes[..10], write10.len), (&[0x2A, 8, 1, 2, 3, 4, 0, 5, 6, 0][..], 10));
    let read12 = Cdb::Read(transfer(Form::Twelve, 1, 2)).encode();
    assert_eq!((&read12.bytes[..12], read12.len), (&[0xA8, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0][..], 12));
    let read16 = Cdb::Read(transfer(Form::Sixteen, 0x0102_0304_0506_0708, 9)).encode();
    assert_eq!(read16.bytes, [0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 9, 0, 0]);
    let inquiry = Cdb::Inquiry { evpd: true, page: 0x83, allocation: 0x1234 }.encode();
    assert_eq!(inquiry.bytes[..6], [0x12, 1, 0x83, 0x12, 0x34, 0]);
    let capacity = Cdb::ReadCapacity16 { allocation: 32 }.encode();
    assert_eq!(capacity.bytes, [0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]);
    let luns = Cdb::ReportLuns { select: 0, allocation: 0x0102_0304 }.encode();
    assert_eq!((&luns.bytes[..12], luns.len), (&[0xA0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0][..], 12));
}

#[test]
fn the_form_grows_with_the_range() {
    assert_eq!(Transfer::new(0, 0xFFFF).form, Form::Ten);
    assert_eq!(Transfer::new(0, 0x1_0000).form, Form::Sixteen);
    assert_eq!(Transfer::new(1 << 32, 1).form, Form::Sixteen);
}

#[test]
fn refusals_name_the_byte() {
    let mut b = [0u8; 16];
    b[0] = 0xEE;
    assert_eq!(Cdb::parse(&b), Err(CdbError::UnknownOpcode(0xEE)));
    b[0] = op::SERVICE_ACTION_IN_16;
    b[1] = 0x1F;
    assert_eq!(Cdb::parse(&b), Err(CdbError::InvalidField(1)));
    b[0] = op::VERIFY_10;
    b[1] = 0x04;
    assert_eq!(Cdb::parse(&b), Err(CdbError::InvalidField(1)), "BYTCHK 2 is reserved");
    assert!(CdbError::InvalidField(1).sense().same_condition(&Sense::INVALID_FIELD));
}

fn forms() -> impl Strategy<Value = Form> {
    prop_oneof![Just(Form::Six), Just(Form::Ten), Just(Form::Twelve), Just(Form::Sixteen)]
}

proptest! {
    /// What parses encodes back to a CDB with the same meaning: no field is lost or moved.
    #[test]
    fn parse_encode_parse(mut bytes in proptest::array::uniform16(any::<u8>()), pick in 0usize..47) {
        const OPS: [u8; 47] = [0, 3, 8, 0xA, 0x12, 0x15, 0x16, 0x17, 0x1A, 0x1B, 0x1E, 0x25, 0x28, 0x2A, 0x2E, 0x2F, 0x34, 0x35, 0x37, 0x41, 0x42, 0x48, 0x4D, 0x55,
            0x5A, 0x5E, 0x5F, 0x83, 0x84, 0x88, 0x89, 0x8A, 0x8B, 0x8E, 0x8F, 0x90, 0x91, 0x93, 0x9C, 0x9E, 0xA0, 0xA3, 0xA8, 0xAA, 0xAE, 0xAF, 0xB7];
        bytes[0] = OPS[pick];
        if let Ok(cdb) = Cdb::parse(&bytes) {
            prop_assert_eq!(Cdb::parse(&cdb.encode().bytes), Ok(cdb));
        }
    }

    #[test]
    fn transfers_round_trip(form in forms(), lba: u64, blocks: u32, fua: bool, dpo: bool) {
        let (lba, blocks) = match form {
            Form::Six => (lba & 0x1F_FFFF, blocks % 256 + 1),
            Form::Ten => (lba & 0xFFFF_FFFF, blocks & 0xFFFF),
            Form::Twelve => (lba & 0xFFFF_FFFF, blocks),
            Form::Sixteen => (lba, blocks),
        };
        let six = form == Form::Six;
        let t = Transfer { fua: fua && !six, dpo: dpo && !six, ..transfer(form, lba, blocks) };
        for cdb in [Cdb::Read(t), Cdb::Write(t)] {
            prop_assert_eq!(Cdb::parse(&cdb.encode().bytes), Ok(cdb));
        }
    }

    #[test]
    fn any_bytes_are_answered(bytes in proptest::array::uniform16(any::<u8>())) {
        let _ = Cdb::parse(&bytes);
    }
}
