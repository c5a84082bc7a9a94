//! CDBs and parameter data: what parses is written back as something that parses to the same, and nothing
//! reads past its end.

use iscsi::scsi::{
    BlockLimits, CachingPage, Capacity, Cdb, ControlPage, Form, Inquiry, ModeParameters, Provisioning,
    ReportLuns, Sense, SenseFormat, Support, designators, page, vpd_payload,
};

use super::Cursor;

pub(super) fn run(input: &[u8]) {
    let mut c = Cursor::new(input);
    let what = c.byte() % 8;
    if what == 0 {
        while !c.is_empty() {
            if let Ok(cdb) = Cdb::parse(&c.array()) {
                let again = Cdb::parse(&cdb.encode().bytes);
                assert_eq!(again, Ok(cdb), "a command that was read is written as itself");
            }
        }
        return;
    }
    let code = c.byte();
    let data = c.rest();
    match what {
        1 => {
            if let Some(sense) = Sense::parse(data) {
                for format in [SenseFormat::Fixed, SenseFormat::Descriptor] {
                    let bytes = sense.encode(format);
                    let again = Sense::parse(bytes.as_slice()).expect("sense that was written is sense");
                    assert_eq!((again.key, again.asc, again.ascq), (sense.key, sense.asc, sense.ascq));
                }
            }
        }
        2 => {
            if let Some(list) = ReportLuns::parse(data) {
                assert!(list.iter().count() <= data.len() / 8);
                for lun in list.iter() {
                    let _ = lun.number();
                }
                let _ = list.needed();
            }
        }
        3 => {
            if let Some(inquiry) = Inquiry::parse(data) {
                let mut out = Vec::new();
                inquiry.encode(&mut out);
                assert_eq!(Inquiry::parse(&out), Some(inquiry));
                let _ = inquiry.is_present();
            }
        }
        4 => {
            if let Some(payload) = vpd_payload(code, data) {
                assert!(payload.len() <= data.len());
                assert!(designators(payload).count() <= payload.len());
                if let Some(limits) = BlockLimits::parse(payload) {
                    let mut out = Vec::new();
                    limits.encode(&mut out);
                    assert_eq!(vpd_payload(out[1], &out).and_then(BlockLimits::parse), Some(limits));
                }
                let _ = Provisioning::parse(payload);
            }
        }
        5 => {
            if let Some(Some(capacity)) = Capacity::parse10(data) {
                let _ = capacity.bytes();
            }
            if let Some(capacity) = Capacity::parse16(data) {
                let mut out = Vec::new();
                capacity.encode16(&mut out);
                assert_eq!(Capacity::parse16(&out), Some(capacity));
                let _ = capacity.bytes();
            }
        }
        6 => {
            let form = if code & 1 == 0 { Form::Six } else { Form::Ten };
            if let Some(parameters) = ModeParameters::parse(form, data) {
                for code in [page::CACHING, page::CONTROL, code & 0x3f] {
                    if let Some(bytes) = parameters.page(code) {
                        let _ = (CachingPage::parse(bytes), ControlPage::parse(bytes));
                    }
                }
            }
        }
        _ => {
            if let Some((_, usage)) = Support::parse(data) {
                assert!(usage.len() <= data.len());
            }
        }
    }
}
