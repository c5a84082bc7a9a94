//! Building and parsing PDUs, and digests.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use iscsi::digest::{data_digest, header_digest};
use iscsi::framing::{Event, Framer};
use iscsi::pdu::{BHS_LEN, Bhs, DataIn, Header, Pdu, ScsiCommand, flags};

fn command(cmd_sn: u32) -> ScsiCommand {
    let mut pdu = ScsiCommand::new();
    pdu.flags |= flags::READ;
    pdu.itt = 7.into();
    pdu.expected_data_transfer_length = 4096.into();
    pdu.cmd_sn = cmd_sn.into();
    pdu.exp_stat_sn = 9.into();
    pdu.cdb[0] = 0x28;
    pdu.cdb[8] = 8;
    pdu
}

fn data_in(len: u32) -> DataIn {
    let mut pdu = DataIn::new();
    pdu.flags |= flags::FINAL | flags::STATUS;
    pdu.itt = 7.into();
    pdu.data_segment_length.set(len);
    pdu
}

fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("pdu");
    let mut out = [0; BHS_LEN];
    group.bench_function("build SCSI Command", |b| {
        b.iter(|| {
            out.copy_from_slice(command(black_box(5)).wire());
            black_box(&out);
        });
    });
    group.bench_function("build Data-In", |b| {
        b.iter(|| {
            out.copy_from_slice(data_in(black_box(4096)).wire());
            black_box(&out);
        });
    });
    for (name, wire) in [("parse SCSI Command", *command(5).wire()), ("parse Data-In", *data_in(4096).wire())]
    {
        group.bench_function(name, |b| {
            b.iter(|| match Bhs::from_bytes(black_box(&wire)).pdu() {
                Ok(Pdu::ScsiCommand(p)) => p.cmd_sn.get(),
                Ok(Pdu::DataIn(p)) => p.data_sn.get(),
                other => panic!("{other:?}"),
            });
        });
    }
    for digests in [false, true] {
        let mut wire = data_in(4096).wire().to_vec();
        let payload = [0x5a; 4096];
        if digests {
            let header: [u8; BHS_LEN] = *data_in(4096).wire();
            wire.extend_from_slice(&header_digest(&header, &[]));
        }
        wire.extend_from_slice(&payload);
        if digests {
            wire.extend_from_slice(&data_digest(&payload));
        }
        let name = if digests { "frame Data-In 4 KiB with digests" } else { "frame Data-In 4 KiB" };
        group.bench_function(name, |b| {
            let mut framer = Framer::new(8192);
            framer.configure(digests, digests, 8192).expect("between PDUs");
            b.iter(|| {
                let mut rest = black_box(&wire[..]);
                let mut bytes = 0;
                loop {
                    match framer.next(&mut rest).expect("a sound PDU") {
                        Some(Event::Header) => {}
                        Some(Event::Data { bytes: data, .. }) => bytes += data.len(),
                        Some(Event::End { data_digest_ok }) => break assert!(data_digest_ok),
                        None => panic!("the PDU is whole"),
                    }
                }
                bytes
            });
        });
    }
    group.finish();
}

fn digest(c: &mut Criterion) {
    let mut group = c.benchmark_group("digest");
    for len in [48usize, 4 << 10, 64 << 10] {
        let data = vec![0x5a; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("CRC32C {len} bytes"), |b| b.iter(|| data_digest(black_box(&data))));
    }
    group.finish();
}

criterion_group!(all, build, digest);
criterion_main!(all);
