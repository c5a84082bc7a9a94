//! tgtd on loopback: started by the test, with its own port and control port.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{free_port, peer};

/// A user and a secret.
pub type Account<'a> = (&'a str, &'a str);

/// A running tgtd. It is killed when dropped.
pub struct Tgtd {
    program: PathBuf,
    admin: PathBuf,
    child: Child,
    port: u16,
    control: u16,
    targets: u32,
    /// What tgtadm was told, for a restart.
    steps: Vec<Vec<String>>,
}

impl Tgtd {
    /// Starts a daemon without targets. `None` if tgtd is not installed (see [`peer`]).
    #[must_use]
    pub fn start() -> Option<Self> {
        let program = peer("tgtd", "tgt")?;
        let admin = peer("tgtadm", "tgt")?;
        let (port, control) = (free_port(), free_port() % 30_000);
        let child = spawn(&program, port, control);
        let me = Self { program, admin, child, port, control, targets: 0, steps: Vec::new() };
        me.wait();
        Some(me)
    }

    /// Where it listens.
    #[must_use]
    pub fn portal(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Adds a target whose LUN 1 is a file, with optional incoming and outgoing CHAP accounts.
    ///
    /// # Panics
    /// When tgtadm fails.
    pub fn add(
        &mut self,
        name: &str,
        file: &Path,
        incoming: Option<Account<'_>>,
        outgoing: Option<Account<'_>>,
    ) {
        let tid = self.add_empty(name).to_string();
        let tid = tid.as_str();
        let file = file.to_str().expect("a UTF-8 path");
        self.step(&["--op", "new", "--mode", "logicalunit", "--tid", tid, "--lun", "1", "-b", file]);
        for (account, direction) in [(incoming, None), (outgoing, Some("--outgoing"))] {
            let Some((user, secret)) = account else { continue };
            self.step(&["--op", "new", "--mode", "account", "--user", user, "--password", secret]);
            let mut bind = vec!["--op", "bind", "--mode", "account", "--tid", tid, "--user", user];
            bind.extend(direction);
            self.step(&bind);
        }
    }

    /// Adds a target without a disk; returns its number.
    ///
    /// # Panics
    /// When tgtadm fails.
    pub fn add_empty(&mut self, name: &str) -> u32 {
        self.targets += 1;
        let tid = self.targets.to_string();
        self.step(&["--op", "new", "--mode", "target", "--tid", &tid, "-T", name]);
        self.step(&["--op", "bind", "--mode", "target", "--tid", &tid, "-I", "ALL"]);
        self.targets
    }

    /// Sets a login parameter of a target.
    ///
    /// # Panics
    /// When tgtadm fails.
    pub fn set(&mut self, tid: u32, key: &str, value: &str) {
        let tid = tid.to_string();
        self.step(&["--op", "update", "--mode", "target", "--tid", &tid, "-n", key, "-v", value]);
    }

    fn step(&mut self, args: &[&str]) {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        self.admin(&args);
        self.steps.push(args);
    }

    /// Kills the daemon as `kill -9` does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, on the same port, with the same targets.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.program, self.port, self.control);
        self.wait();
        for s in &self.steps {
            self.admin(s);
        }
    }

    fn admin(&self, args: &[String]) {
        let control = self.control.to_string();
        let out = Command::new(&self.admin)
            .args(["-C", &control, "--lld", "iscsi"])
            .args(args)
            .output()
            .expect("tgtadm runs");
        assert!(out.status.success(), "tgtadm {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    fn wait(&self) {
        let start = Instant::now();
        while TcpStream::connect(self.portal()).is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "tgtd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Tgtd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(program: &Path, port: u16, control: u16) -> Child {
    Command::new(program)
        .args(["-f", "-C", &control.to_string(), "--iscsi"])
        .arg(format!("portal=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("tgtd starts")
}
