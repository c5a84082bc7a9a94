//! KWQEs of layer 6: INIT, OFFLOAD_CONN, UPDATE_CONN, DESTROY_CONN (BNX2I-CNIC 2.5, 4.4, 4.7, 4.8).

use hsi::bcm5709::limits::{BNX2I_CQE_SIZE, BNX2I_RQ_WQE_SIZE, BNX2I_SQ_WQE_SIZE, CNIC_PAGE_SIZE};
use hsi::bcm5709::pte::IscsiPte;
use hsi::iscsi::cq::CqSequence;
use hsi::kernel::kwq as k;
use hsi::kernel::kwq::{IscsiKwqeHeader, IscsiKwqeOpcode, Kwqe};
use hsi::{U16, U32, View};

use crate::config::DriverConfig;
use crate::control::ConnParams;

/// INIT1 and INIT2. `dummy` is the bus address of a page that zero-length requests name.
pub(crate) fn init(config: &DriverConfig, dummy: u64) -> [Kwqe; 2] {
    let r = config.rings;
    let pages =
        |entries: u16, size: usize| U16::new((usize::from(entries) * size).div_ceil(CNIC_PAGE_SIZE) as u16);
    let dack = if config.delayed_ack { k::ISCSI_KWQE_INIT1_DELAYED_ACK_ENABLE } else { 0 };
    let mut one = k::IscsiKwqeInit1::default();
    one.num_cqs = 1;
    one.hdr = IscsiKwqeHeader::new(IscsiKwqeOpcode::INIT1);
    one.num_tasks_per_conn = U16::new(r.sq);
    one.num_ccells_per_conn = U16::new(r.sq / 2);
    one.sq_num_wqes = U16::new(r.sq);
    one.sq_wqes_per_page = U16::new((CNIC_PAGE_SIZE / BNX2I_SQ_WQE_SIZE) as u16);
    one.cq_num_wqes = U16::new(r.cq);
    one.flags = k::ISCSI_PAGE_SIZE_4K | dack;
    one.cq_log_wqes_per_page = (CNIC_PAGE_SIZE / BNX2I_CQE_SIZE).ilog2() as u8;
    one.sq_num_pages = pages(r.sq, BNX2I_SQ_WQE_SIZE);
    one.cq_num_pages = pages(r.cq, BNX2I_CQE_SIZE);
    one.rq_num_wqes = U16::new(r.rq);
    one.rq_buffer_size = U16::new(BNX2I_RQ_WQE_SIZE as u16);
    one.set_dummy_buffer_addr(dummy);
    let mut two = k::IscsiKwqeInit2::default();
    two.max_cq_sqn = U16::new(CqSequence::max_cq_sqn(r.cq) as u16);
    two.hdr = IscsiKwqeHeader::new(IscsiKwqeOpcode::INIT2);
    two.error_bit_map = [U32::new(config.warning_mask as u32), U32::new((config.warning_mask >> 32) as u32)];
    [one.into_element(), two.into_element()]
}

/// OFFLOAD_CONN1 and 2. `tables` are address and first entry of the SQ, CQ and RQ page tables.
pub(crate) fn offload(cid: u16, tables: [(u64, IscsiPte); 3]) -> [Kwqe; 2] {
    let mut one = k::IscsiKwqeConnOffload1::default();
    one.iscsi_conn_id = U16::new(cid);
    one.hdr = IscsiKwqeHeader::new(IscsiKwqeOpcode::OFFLOAD_CONN1);
    one.set_sq_page_table_addr(tables[0].0);
    one.set_cq_page_table_addr(tables[1].0);
    let mut two = k::IscsiKwqeConnOffload2::default();
    two.hdr = IscsiKwqeHeader::new(IscsiKwqeOpcode::OFFLOAD_CONN2);
    two.sq_first_pte = tables[0].1;
    two.cq_first_pte = tables[1].1;
    two.set_rq_page_table_addr(tables[2].0);
    [one.into_element(), two.into_element()]
}

/// UPDATE_CONN: the full feature phase begins. `context` is the context address.
pub(crate) fn update(cid: u16, context: u32, params: &ConnParams) -> Kwqe {
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    let mut update = k::IscsiKwqeConnUpdate::default();
    update.hdr = IscsiKwqeHeader::new(IscsiKwqeOpcode::UPDATE_CONN);
    update.conn_flags = flag(params.header_digest, k::ISCSI_KWQE_CONN_UPDATE_HEADER_DIGEST)
        | flag(params.data_digest, k::ISCSI_KWQE_CONN_UPDATE_DATA_DIGEST)
        | flag(params.initial_r2t, k::ISCSI_KWQE_CONN_UPDATE_INITIAL_R2T)
        | flag(params.immediate_data, k::ISCSI_KWQE_CONN_UPDATE_IMMEDIATE_DATA);
    update.max_outstanding_r2ts = params.max_outstanding_r2t;
    update.context_id = U32::new(hsi::bcm5709::ctx::cid(context));
    update.max_send_pdu_length = U32::new(params.max_xmit_data_segment);
    update.max_recv_pdu_length = U32::new(params.max_recv_data_segment);
    update.first_burst_length = U32::new(params.first_burst);
    update.max_burst_length = U32::new(params.max_burst);
    update.exp_stat_sn = U32::new(params.exp_stat_sn);
    let mut update = update.into_element();
    // The real driver leaves this word to chance; ours says whose it is, as DESTROY does.
    update.kwqe_op_flag.set(update.kwqe_op_flag.get() | u32::from(cid));
    update
}

/// DESTROY_CONN. `context` is the context address.
pub(crate) fn destroy(cid: u16, context: u32) -> Kwqe {
    k::IscsiKwqeConnDestroy::new(cid, hsi::bcm5709::ctx::cid(context)).into_element()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_words_of_the_documented_defaults() {
        let config = DriverConfig {
            rings: crate::config::RingSizes { sq: 64, rq: 16, cq: 128 },
            ..Default::default()
        };
        let [one, two] = init(&config, 0x1_2345_6000);
        assert_eq!(one.kwqe_op_flag.get(), 0x6004_0001, "BNX2I-CNIC B.6");
        assert_eq!(one.kwqe_info4.get(), 0x0614_0080, "CQ 128, 4 KiB, delayed ACK");
        assert_eq!((one.kwqe_info0.get(), one.kwqe_info1.get()), (0x2345_6000, 1), "low word first");
        assert_eq!(two.kwqe_op_flag.get(), 0x6005_0101);
        assert_eq!((two.kwqe_info0.get(), two.kwqe_info1.get()), (0x0800_8000, 1));
    }

    #[test]
    fn update_and_destroy_name_the_context_by_id() {
        assert_eq!(destroy(5, 0x100 << 7).kwqe_info0.get(), 0x100);
        let params = ConnParams {
            header_digest: true,
            data_digest: false,
            initial_r2t: false,
            immediate_data: true,
            max_outstanding_r2t: 1,
            max_xmit_data_segment: 1,
            max_recv_data_segment: 2,
            first_burst: 3,
            max_burst: 4,
            exp_stat_sn: 5,
        };
        let u = update(7, 0x100 << 7, &params);
        assert_eq!(u.kwqe_op_flag.get(), 0x6002_0007);
        assert_eq!(u.kwqe_info0.get(), 0x0001_0009, "R2Ts in byte 2, flags in byte 0");
        assert_eq!((u.kwqe_info1.get(), u.kwqe_info6.get()), (0x100, 5));
    }
}
