//! The crate as its two users see it, from outside: the driver builds an element, bytes cross the seam, the
//! chip parses.

use hsi::iscsi::bits::{Cdb, Itt, Lun, TaskType};
use hsi::iscsi::sq::{CmdRequest, ISCSI_CMD_REQUEST_READ, SqOpcode, Sqe};
use hsi::kernel::kwq::{IscsiKwqeConnOffload1, IscsiKwqeOpcode, Kwqe, Layer};
use hsi::{U16, U32, View};

#[test]
fn a_read_command_crosses_the_seam() {
    let mut read = CmdRequest::blank();
    read.op_attr = ISCSI_CMD_REQUEST_READ | 1;
    read.itt = Itt::new(17, TaskType::READ);
    read.lun = Lun::from_wire([0, 3, 0, 0, 0, 0, 0, 0]);
    read.cdb = Cdb::from_wire([0x28, 0, 0, 0, 0, 9, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
    read.total_data_transfer_length = U32::new(4096);
    read.set_bd_list_addr(0x12_3456_7000);
    let memory: [u8; 64] = *read.bytes();

    let sqe = Sqe::from_bytes(memory);
    assert_eq!(sqe.opcode(), SqOpcode::SCSI_CMD);
    let seen: &CmdRequest = sqe.view();
    assert!(seen.is_read() && !seen.is_write());
    assert_eq!((seen.itt.index(), seen.task_attr()), (17, 1));
    assert_eq!(seen.lun.to_wire()[1], 3);
    assert_eq!(seen.cdb.to_wire()[..9], [0x28, 0, 0, 0, 0, 9, 0, 0, 8]);
    assert_eq!((seen.total_data_transfer_length.get(), seen.bd_list_addr()), (4096, 0x12_3456_7000));
}

#[test]
fn an_offload_request_crosses_the_seam() {
    let mut offload = IscsiKwqeConnOffload1::blank();
    offload.iscsi_conn_id = U16::new(127);
    offload.set_sq_page_table_addr(0x1_0000_2000);
    let mut memory = [0xff_u8; 96];
    memory[32..64].copy_from_slice(offload.into_element().bytes());

    let kwqe = Kwqe::from_bytes(memory[32..64].try_into().expect("32 bytes"));
    assert_eq!(
        (kwqe.layer(), IscsiKwqeOpcode(kwqe.opcode())),
        (Layer::ISCSI, IscsiKwqeOpcode::OFFLOAD_CONN1)
    );
    let seen: &IscsiKwqeConnOffload1 = kwqe.view();
    assert_eq!((seen.iscsi_conn_id.get(), seen.sq_page_table_addr()), (127, 0x1_0000_2000));
}
