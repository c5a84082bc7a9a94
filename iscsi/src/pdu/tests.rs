//! Header layouts against the tables of RFC 7143, and the checks against headers that break them.

use super::*;
use crate::serial::Sn;
use proptest::prelude::*;

/// Where a field lies in the header, found by writing ones into it.
fn span<T: Header>(write: impl Fn(&mut T)) -> (usize, usize) {
    let blank = T::new();
    let mut marked = T::new();
    write(&mut marked);
    let changed: Vec<usize> = (0..BHS_LEN).filter(|&at| blank.wire()[at] != marked.wire()[at]).collect();
    (changed[0], changed.len())
}

#[test]
fn fields_lie_where_the_rfc_puts_them() {
    let ones = U32::new(0x5a5a_5a5a);
    let half = U16::new(0x5a5a);
    assert_eq!(span::<ScsiCommand>(|p| p.data_segment_length.set(0x5a5a5a)), (5, 3));
    assert_eq!(span::<ScsiCommand>(|p| p.total_ahs_length = 1), (4, 1));
    assert_eq!(span::<ScsiCommand>(|p| p.lun = [1; 8]), (8, 8));
    assert_eq!(span::<ScsiCommand>(|p| p.itt = ones), (16, 4));
    assert_eq!(span::<ScsiCommand>(|p| p.expected_data_transfer_length = ones), (20, 4));
    assert_eq!(span::<ScsiCommand>(|p| p.cmd_sn = ones), (24, 4));
    assert_eq!(span::<ScsiCommand>(|p| p.exp_stat_sn = ones), (28, 4));
    assert_eq!(span::<ScsiCommand>(|p| p.cdb = [1; 16]), (32, 16));
    assert_eq!(span::<TaskManagementRequest>(|p| p.referenced_task_tag = ones), (20, 4));
    assert_eq!(span::<TaskManagementRequest>(|p| p.ref_cmd_sn = ones), (32, 4));
    assert_eq!(span::<TaskManagementRequest>(|p| p.exp_data_sn = ones), (36, 4));
    assert_eq!(span::<DataOut>(|p| p.ttt = ones), (20, 4));
    assert_eq!(span::<DataOut>(|p| p.exp_stat_sn = ones), (28, 4));
    assert_eq!(span::<DataOut>(|p| p.data_sn = ones), (36, 4));
    assert_eq!(span::<DataOut>(|p| p.buffer_offset = ones), (40, 4));
    assert_eq!(span::<LoginRequest>(|p| p.isid = [1; 6]), (8, 6));
    assert_eq!(span::<LoginRequest>(|p| p.tsih = half), (14, 2));
    assert_eq!(span::<LoginRequest>(|p| p.cid = half), (20, 2));
    assert_eq!(span::<LogoutRequest>(|p| p.cid = half), (20, 2));
    assert_eq!(span::<SnackRequest>(|p| p.beg_run = ones), (40, 4));
    assert_eq!(span::<SnackRequest>(|p| p.run_length = ones), (44, 4));
    assert_eq!(span::<ScsiResponse>(|p| p.response = 1), (2, 1));
    assert_eq!(span::<ScsiResponse>(|p| p.status = 2), (3, 1));
    assert_eq!(span::<ScsiResponse>(|p| p.stat_sn = ones), (24, 4));
    assert_eq!(span::<ScsiResponse>(|p| p.exp_data_sn = ones), (36, 4));
    assert_eq!(span::<ScsiResponse>(|p| p.bidi_residual = ones), (40, 4));
    assert_eq!(span::<ScsiResponse>(|p| p.residual = ones), (44, 4));
    assert_eq!(span::<DataIn>(|p| p.exp_cmd_sn = ones), (28, 4));
    assert_eq!(span::<DataIn>(|p| p.max_cmd_sn = ones), (32, 4));
    assert_eq!(span::<DataIn>(|p| p.data_sn = ones), (36, 4));
    assert_eq!(span::<DataIn>(|p| p.buffer_offset = ones), (40, 4));
    assert_eq!(span::<DataIn>(|p| p.residual = ones), (44, 4));
    assert_eq!(span::<R2t>(|p| p.r2t_sn = ones), (36, 4));
    assert_eq!(span::<R2t>(|p| p.desired_length = ones), (44, 4));
    assert_eq!(span::<AsyncMessage>(|p| p.event = 1), (36, 1));
    assert_eq!(span::<AsyncMessage>(|p| p.parameter1 = half), (38, 2));
    assert_eq!(span::<AsyncMessage>(|p| p.parameter3 = half), (42, 2));
    assert_eq!(span::<LoginResponse>(|p| p.status_class = 1), (36, 1));
    assert_eq!(span::<LogoutResponse>(|p| p.time2wait = half), (40, 2));
    assert_eq!(span::<LogoutResponse>(|p| p.time2retain = half), (42, 2));
    assert_eq!(span::<Reject>(|p| p.data_sn = ones), (36, 4));
    assert_eq!(span::<NopIn>(|p| p.ttt = ones), (20, 4));
    assert_eq!(span::<NopOut>(|p| p.exp_stat_sn = ones), (28, 4));
}

#[test]
fn read10_of_the_rfc_digest_example() {
    let mut pdu = ScsiCommand::new();
    pdu.flags = flags::FINAL | flags::READ;
    pdu.itt = U32::new(0x1400_0000);
    pdu.expected_data_transfer_length = U32::new(0x400);
    pdu.cmd_sn = Sn(0x14).into();
    pdu.exp_stat_sn = Sn(0x18).into();
    pdu.cdb[0] = 0x28;
    pdu.cdb[8] = 0x02;
    assert_eq!(crate::digest::header_digest(pdu.wire(), &[]), [0x56, 0x3a, 0x96, 0xd9]);
    let view = pdu.view::<ScsiCommand>().unwrap();
    assert!(view.reads() && !view.writes() && view.attribute() == Some(TaskAttribute::Untagged));
}

/// Every kind as `new` makes it, with what it cannot default to.
fn valid() -> Vec<Bhs> {
    let mut tmf = TaskManagementRequest::new();
    tmf.set_function(TmfFunction::LogicalUnitReset);
    let mut nop = NopOut::new();
    nop.set_immediate(true);
    let mut r2t = R2t::new();
    r2t.ttt = U32::new(1);
    r2t.desired_length = U32::new(512);
    vec![
        *nop,
        *ScsiCommand::new(),
        *tmf,
        *LoginRequest::new(),
        *TextRequest::new(),
        *DataOut::new(),
        *LogoutRequest::new(),
        *SnackRequest::new(),
        *NopIn::new(),
        *ScsiResponse::new(),
        *TaskManagementResponse::new(),
        *LoginResponse::new(),
        *TextResponse::new(),
        *DataIn::new(),
        *LogoutResponse::new(),
        *r2t,
        *AsyncMessage::new(),
        *Reject::new(),
    ]
}

#[test]
fn new_headers_pass_the_checks() {
    for bhs in valid() {
        assert!(bhs.pdu().is_ok(), "{:?}", bhs.pdu());
    }
    for &opcode in Opcode::ALL {
        assert!(valid().iter().any(|bhs| bhs.opcode() == Ok(opcode)), "{opcode} is not covered");
    }
}

#[test]
fn lengths_where_there_are_none_are_refused() {
    for mut bhs in valid() {
        let opcode = bhs.opcode().unwrap();
        bhs.total_ahs_length = 1;
        assert_eq!(bhs.pdu().is_ok(), opcode == Opcode::ScsiCommand, "{opcode} with AHS");
    }
    let mut r2t = R2t::new();
    (r2t.ttt, r2t.desired_length) = (U32::new(1), U32::new(1));
    r2t.data_segment_length.set(4);
    assert_eq!(r2t.pdu().unwrap_err(), PduError::UnexpectedData(Opcode::R2t));
}

#[test]
fn illegal_combinations_are_refused() {
    fn refused<T: Header>(write: impl Fn(&mut T)) -> RejectReason {
        let mut pdu = T::new();
        write(&mut pdu);
        pdu.pdu().expect_err("refused").reject_reason()
    }
    let invalid = RejectReason::InvalidField;
    assert_eq!(refused::<ScsiCommand>(|p| p.flags = 0x85), invalid);
    assert_eq!(refused::<TaskManagementRequest>(|p| p.flags = 0x80), invalid);
    assert_eq!(refused::<LogoutRequest>(|p| p.flags = 0x83), invalid);
    assert_eq!(refused::<NopOut>(|_| ()), invalid);
    assert_eq!(refused::<NopIn>(|p| (p.itt, p.ttt) = (U32::new(1), U32::new(1))), invalid);
    assert_eq!(refused::<TextRequest>(|p| p.flags = 0xc0), invalid);
    assert_eq!(refused::<TextResponse>(|p| p.ttt = U32::new(1)), invalid);
    assert_eq!(refused::<ScsiResponse>(|p| p.flags = 0x86), invalid);
    assert_eq!(refused::<ScsiResponse>(|p| p.flags = 0x98), invalid);
    assert_eq!(refused::<DataIn>(|p| p.flags = flags::STATUS), invalid);
    assert_eq!(refused::<DataIn>(|p| p.flags = flags::FINAL | flags::UNDERFLOW), invalid);
    assert_eq!(refused::<R2t>(|p| p.ttt = U32::new(1)), invalid);
    let mut unknown = *NopIn::new();
    unknown.opcode = 0x3e;
    assert_eq!(unknown.pdu().unwrap_err().reject_reason(), RejectReason::CommandNotSupported);
    assert_eq!(
        NopIn::new().view::<R2t>().unwrap_err(),
        PduError::UnexpectedOpcode { got: Opcode::NopIn, want: Opcode::R2t }
    );
}

#[test]
fn login_stage_bits() {
    let mut pdu = LoginRequest::new();
    assert_eq!(pdu.wire()[0], 0x43);
    pdu.set_stages(Stage::Security, Some(Stage::Operational), false);
    assert_eq!((pdu.flags, pdu.stages()), (0x81, Some((Stage::Security, Some(Stage::Operational)))));
    pdu.set_stages(Stage::Operational, None, true);
    assert_eq!((pdu.flags, pdu.stages()), (0x44, Some((Stage::Operational, None))));
    for bad in [0x08, 0x0c, 0x80, 0x85, 0x84, 0x86, 0x8f, 0xc7] {
        pdu.flags = bad;
        assert!(pdu.check().is_err(), "{bad:#x}");
    }
    let mut response = LoginResponse::new();
    response.set_stages(Stage::Operational, Some(Stage::FullFeature), false);
    response.set_status(LoginStatus::TargetNotFound);
    assert_eq!((response.flags & 0x80, response.status_class, response.status_detail), (0, 2, 3));
}

#[test]
fn wire_length_counts_padding_and_digests() {
    assert_eq!([0, 1, 2, 3, 4, 5].map(padding), [0, 3, 2, 1, 0, 3]);
    assert_eq!(wire_len(0, 0, true, true), 52);
    assert_eq!(wire_len(16, 5, true, true), 48 + 16 + 4 + 8 + 4);
}

proptest! {
    #[test]
    fn any_header_is_judged(bytes in proptest::array::uniform32(any::<u8>()), tail in proptest::array::uniform16(any::<u8>())) {
        let mut all = [0; BHS_LEN];
        all[..32].copy_from_slice(&bytes);
        all[32..].copy_from_slice(&tail);
        let bhs = Bhs::from_bytes(&all);
        prop_assert_eq!(bhs.wire(), &all);
        let opcode = bhs.opcode();
        prop_assert!(bhs.pdu().is_err() || opcode.is_ok());
    }
}
