//! `cnic target` and the files that it serves: they shrink when blocks are unmapped, belong to one server,
//! and when they fail the log says what and why.
#![allow(clippy::disallowed_methods, reason = "real peers live in real time; nothing asserts on the clock")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use common::{IQN, Target, cnic, run};
use iscsi::login::{InitiatorConfig, InitiatorLogin, InitiatorStep, LoginPdu};
use iscsi::negotiate::LoginParams;
use iscsi::pdu::{Bhs, Header, Opcode, ScsiCommand, flags, padding};
use iscsi::scsi::{Sense, SenseKey, Status};
use iscsi::serial::Sn;

const MIB: u64 = 1 << 20;

/// An initiator that runs one command at a time.
struct Client {
    stream: TcpStream,
    cmd_sn: u32,
    itt: u32,
}

impl Client {
    fn login(portal: &str) -> Self {
        let stream = TcpStream::connect(portal).expect("it listens");
        // Each client is a session of its own.
        let [high, low] = stream.local_addr().expect("connected").port().to_be_bytes();
        let mut client = Self { stream, cmd_sn: 1, itt: 1 };
        let config = InitiatorConfig {
            initiator_name: "iqn.2026-01.org.example:storage".into(),
            initiator_alias: None,
            target_name: Some(IQN.into()),
            isid: [0x80, 0, 0, 0, high, low],
            cid: 0,
            cmd_sn: Sn(1),
            chap: None,
            params: LoginParams::default(),
        };
        let (mut login, mut pdu) = InitiatorLogin::start(config).expect("the names fit");
        loop {
            let LoginPdu { header, data } = pdu;
            client.send(*header, &data);
            let (bhs, data) = client.receive();
            match login.receive(bhs.view().expect("a Login Response"), &data) {
                InitiatorStep::Send(next) => pdu = next,
                InitiatorStep::Done(done) => {
                    client.cmd_sn = done.exp_cmd_sn.0;
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        // The power-on unit attention.
        assert!(client.run(&[0; 6], 0, &[]).is_err());
        client
    }

    fn send(&mut self, mut bhs: Bhs, data: &[u8]) {
        bhs.data_segment_length.set(data.len() as u32);
        let mut bytes = bhs.wire().to_vec();
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len() + padding(data.len()), 0);
        self.stream.write_all(&bytes).expect("the target reads");
    }

    fn receive(&mut self) -> (Bhs, Vec<u8>) {
        let mut header = [0; 48];
        self.stream.read_exact(&mut header).expect("a PDU");
        let bhs = *Bhs::from_bytes(&header);
        let len = bhs.data_len();
        let mut data = vec![0; len + padding(len)];
        self.stream.read_exact(&mut data).expect("its data");
        data.truncate(len);
        (bhs, data)
    }

    /// Runs a command that reads up to `expected` bytes or writes `out`, all of it immediate: what came, or
    /// why not.
    fn run(&mut self, cdb: &[u8], expected: u32, out: &[u8]) -> Result<Vec<u8>, Sense> {
        self.itt += 1;
        let mut pdu = ScsiCommand::new();
        pdu.flags = flags::FINAL | 1;
        if !out.is_empty() {
            pdu.flags |= flags::WRITE;
        } else if expected > 0 {
            pdu.flags |= flags::READ;
        }
        pdu.itt.set(self.itt);
        pdu.expected_data_transfer_length.set(expected.max(out.len() as u32));
        pdu.cmd_sn.set(self.cmd_sn);
        pdu.cdb[..cdb.len()].copy_from_slice(cdb);
        self.cmd_sn += 1;
        self.send(*pdu, out);
        let mut read = Vec::new();
        loop {
            let (bhs, data) = self.receive();
            match bhs.opcode().expect("an opcode") {
                Opcode::DataIn => {
                    read.extend_from_slice(&data);
                    if bhs.flags & flags::STATUS != 0 {
                        return Ok(read);
                    }
                }
                Opcode::ScsiResponse if bhs.wire()[3] == Status::GOOD.0 => return Ok(read),
                Opcode::ScsiResponse => return Err(Sense::parse(&data[2..]).expect("sense data")),
                other => panic!("unexpected {other}"),
            }
        }
    }

    fn write(&mut self, lba: u32, data: &[u8]) -> Result<Vec<u8>, Sense> {
        let blocks = (data.len() / 512) as u16;
        let cdb = [&[0x2A, 0][..], &lba.to_be_bytes(), &[0], &blocks.to_be_bytes(), &[0]].concat();
        self.run(&cdb, 0, data)
    }

    fn read(&mut self, lba: u32, blocks: u16) -> Result<Vec<u8>, Sense> {
        let cdb = [&[0x28, 0][..], &lba.to_be_bytes(), &[0], &blocks.to_be_bytes(), &[0]].concat();
        self.run(&cdb, u32::from(blocks) * 512, &[])
    }

    fn unmap(&mut self, lba: u64, blocks: u32) -> Result<Vec<u8>, Sense> {
        let list =
            [&[0, 22, 0, 16, 0, 0, 0, 0][..], &lba.to_be_bytes(), &blocks.to_be_bytes(), &[0; 4]].concat();
        self.run(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], 0, &list)
    }

    /// WRITE SAME (16) with the UNMAP bit.
    fn write_same(&mut self, lba: u64, blocks: u32, block: &[u8]) -> Result<Vec<u8>, Sense> {
        let cdb = [&[0x93, 8][..], &lba.to_be_bytes(), &blocks.to_be_bytes(), &[0, 0]].concat();
        self.run(&cdb, 0, block)
    }
}

fn sparse(mib: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file().set_len(mib * MIB).expect("room for a hole");
    file
}

fn spec(file: &tempfile::NamedTempFile) -> String {
    format!("file:{}", file.path().display())
}

#[test]
fn a_file_shrinks_when_blocks_are_unmapped_and_never_grows_by_it() {
    let file = sparse(256);
    let target = Target::start(&["--lun", &spec(&file)]);
    let mut client = Client::login(&target.portal);
    let allocated = || file.as_file().metadata().expect("its size").blocks() * 512;
    for part in 0..4 {
        client.unmap(part * 131_072, 131_072).expect("64 MiB");
    }
    client.write_same(0, 131_072, &[0; 512]).expect("zeros");
    assert_eq!(allocated(), 0, "nothing was there to be freed");
    for at in 0..512 {
        client.write(at * 16, &[7; 8192]).expect("a write");
    }
    let before = allocated();
    assert!(before >= 4 * MIB);
    client.unmap(0, 4096).expect("half of it");
    assert!(allocated() <= before - 2 * MIB, "{before} -> {}", allocated());
    assert_eq!(client.read(0, 1).expect("a hole"), [0; 512]);
    assert_eq!(client.read(4096, 1).expect("data"), [7; 512]);
    client.write_same(4096, 4096, &[0; 512]).expect("the other half");
    assert!(allocated() <= before - 4 * MIB, "{before} -> {}", allocated());
    // A block that is not zero is written, UNMAP bit or not.
    client.write_same(10, 4, &[0xA5; 512]).expect("a pattern");
    assert_eq!(client.read(10, 4).expect("data"), [0xA5; 2048]);
}

#[test]
fn a_failure_has_its_sense_and_a_line_in_the_log() {
    let file = sparse(1);
    let mut command = cnic();
    command.args(["target", "--listen", "127.0.0.1:0", "--iqn", IQN, "--lun", &spec(&file)]);
    let mut target = Target::spawn(command.stderr(Stdio::piped()));
    let mut client = Client::login(&target.portal);
    file.as_file().set_len(4096).expect("cut");
    let sense = client.read(1024, 8).unwrap_err();
    assert!(sense.same_condition(&Sense::new(SenseKey::MEDIUM_ERROR, 0x11, 0)), "{sense:?}");
    assert_eq!(client.read(0, 8).expect("what is left"), [0; 4096]);
    let log = BufReader::new(target.child.stderr.take().expect("piped"));
    let line = log.lines().map_while(Result::ok).find(|line| line.contains("failed")).expect("a line");
    let path = file.path().display().to_string();
    for part in [path.as_str(), "read of 4096 bytes at 524288", "the file ends before it"] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn one_file_has_one_server() {
    let file = sparse(1);
    let link = file.path().with_extension("other-name");
    std::fs::hard_link(file.path(), &link).expect("same directory");
    let other = format!("file:{}", link.display());
    let serve = |args: &[&str]| {
        let base = ["target", "--listen", "127.0.0.1:0", "--iqn", IQN];
        run(&[&base[..], args].concat())
    };
    let target = Target::start(&["--lun", &spec(&file)]);
    for args in [&["--lun", &other][..], &["--lun", &other, "--read-only"]] {
        let (code, _, err) = serve(args);
        assert!(code == 7 && err.contains("is in use"), "{code} {err}");
    }
    drop(target);
    let (code, _, err) = serve(&["--lun", &spec(&file), "--lun", &other]);
    assert!(code == 7 && err.contains("is in use"), "two LUNs: {code} {err}");
    let _first = Target::start(&["--lun", &spec(&file), "--read-only"]);
    let _second = Target::start(&["--lun", &other, "--read-only"]);
    std::fs::remove_file(link).expect("ours");
}

#[test]
fn two_portals_lead_to_one_disk_of_large_blocks() {
    let mut command = cnic();
    command.args(["target", "--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--iqn", IQN]);
    command.args(["--lun", "ram:1M", "--block-size", "4096", "--removable"]);
    let mut target = Target::spawn(&mut command);
    let mut more = String::new();
    let out = target.child.stdout.take().expect("piped");
    BufReader::new(out).read_line(&mut more).expect("a line for each portal");
    let second = more.strip_prefix("listening on ").and_then(|l| l.split(',').next()).expect("a portal");
    let (mut one, mut two) = (Client::login(&target.portal), Client::login(second));
    let capacity = one.run(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8, &[]).expect("READ CAPACITY (10)");
    assert_eq!(capacity, [0, 0, 0, 255, 0, 0, 0x10, 0]);
    let inquiry = one.run(&[0x12, 0, 0, 0, 36, 0], 36, &[]).expect("INQUIRY");
    assert_eq!(inquiry[1], 0x80, "removable");
    one.run(&[0x2A, 0, 0, 0, 0, 7, 0, 0, 1, 0], 0, &[9; 4096]).expect("a block");
    assert_eq!(two.run(&[0x28, 0, 0, 0, 0, 7, 0, 0, 1, 0], 4096, &[]).expect("the same"), [9; 4096]);
}
