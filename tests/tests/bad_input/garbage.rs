//! Garbage on both ports while a real replica is served.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_testbed::sql::code_of;
use baton_testbed::{
    Certs, DEADLINE, MariaDb, RelayProc, RowWriter, Source, assert_tables_equal, scenario, wait_caught_up, wait_until,
};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

/// What the relay may have grown by, in KiB, whatever was thrown at it.
const GROWTH: u64 = 96 << 10;
/// First bytes of a TLS ClientHello.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdefghijklmnopqrstuvwxyz012345\x20";
/// A replica's whole conversation, for another server's nonce.
const CONVERSATION: &[u8] = include_bytes!("../../../relay/wire/tests/captures/b-mariadb-gtid-empty.c2s.bin");

/// What must hold after everything.
struct Watched {
    primary: MariaDb,
    relay: RelayProc,
    replica: MariaDb,
    pid: u32,
    memory: u64,
}

impl Watched {
    fn start(primary: MariaDb, relay: RelayProc, replica: MariaDb) -> Result<Self> {
        primary.sql("CREATE TABLE test.watched (id INT AUTO_INCREMENT PRIMARY KEY)")?;
        replica.replicate_from(&Source::gtid(relay.port()))?;
        wait_caught_up(&primary, &replica)?;
        let (pid, memory) = (relay.proc()?.pid(), relay.rss_kb()?);
        Ok(Self { primary, relay, replica, pid, memory })
    }

    /// The relay is the same process, serves the replica, has told of no panic and has not grown much.
    fn check(&self) -> Result<()> {
        self.primary.sql("INSERT INTO test.watched VALUES ()")?;
        assert_tables_equal(&self.primary, &self.replica);
        ensure!(self.relay.proc()?.is_running() && self.relay.proc()?.pid() == self.pid, "the relay has died");
        let log = fs::read_to_string(self.relay.log_file())?;
        let panic = log.lines().find(|line| line.contains("panicked"));
        ensure!(panic.is_none(), "{panic:?}");
        let memory = self.relay.rss_kb()?;
        ensure!(memory < self.memory + GROWTH, "memory grew from {} to {memory} KiB", self.memory);
        Ok(())
    }
}

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// Sends bytes, then nothing more; reads whatever comes until the relay closes. That it does not close within the deadline is an error.
fn throw(port: u16, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = connect(port)?;
    // The relay may have had enough before the end.
    let _refused = stream.write_all(bytes);
    let _gone_already = stream.shutdown(Shutdown::Write);
    drained(&mut stream)
}

fn drained(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Err(error).context("the relay keeps a connection that says nothing")
        }
        _ => Ok(answer),
    }
}

/// A packet whose header says `length`, whatever its payload has.
fn packet(length: usize, sequence: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (length as u32).to_le_bytes();
    bytes[3] = sequence;
    [&bytes, payload].concat()
}

#[test]
fn garbage_on_both_ports_harms_nobody() {
    scenario("garbage", |bed| {
        let primary = bed.mariadb("primary").start()?;
        let relay = bed.relay("relay").upstream(&primary).set("listen", "login_timeout", "\"300ms\"").start()?;
        let watched = Watched::start(primary.clone(), relay.clone(), bed.mariadb("replica").server_id(2).start()?)?;
        let writer = RowWriter::start(&primary, "rows", 1, Duration::from_millis(2))?;
        let seed: u64 = rand::random();
        eprintln!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for port in [relay.port(), relay.http_port()] {
            for round in 0..150 {
                let mut bytes = vec![0; random.random_range(0..2000)];
                random.fill_bytes(&mut bytes);
                if round % 2 == 0 {
                    // With a header that fits, so that what is inside is looked at.
                    bytes = packet(bytes.len(), 1, &bytes);
                }
                throw(port, &bytes)?;
            }
            for bytes in [
                &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
                b"GET /v1/lag HTTP/9.9\r\n\r\n",
                b"POST /v1/promise HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                CLIENT_HELLO,
                CONVERSATION,
                b"\n",
                b"",
                b"quit\r\n",
                &[0; 70_000],
                &[0xff; 70_000],
            ] {
                throw(port, bytes)?;
            }
        }
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20));
        throw(relay.http_port(), long.as_bytes())?;
        let fields = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(100_000));
        throw(relay.http_port(), fields.as_bytes())?;
        ensure!(relay.get("/readyz")?.0 == 200);
        half_open(&relay)?;
        writer.stop()?;
        watched.check()
    });
}

/// Connections that say nothing, or stop in the middle, are ended by the relay.
fn half_open(relay: &RelayProc) -> Result<()> {
    let beginnings: [&[u8]; 5] = [b"", b"\xc4", b"\xc4\0\0\x01", &CONVERSATION[..100], &packet(0x8000, 1, b"")];
    let mut open = Vec::new();
    for bytes in beginnings.iter().cycle().take(50) {
        let mut stream = connect(relay.port())?;
        stream.write_all(bytes)?;
        open.push(stream);
    }
    open.iter_mut().try_for_each(|stream| drained(stream).map(drop))
}

#[test]
fn packets_that_lie_about_their_length_are_bounded() {
    scenario("lying_lengths", |bed| {
        let primary = bed.mariadb("primary").start()?;
        let relay = bed.relay("relay").upstream(&primary).set("listen", "login_timeout", "\"2s\"").start()?;
        let watched = Watched::start(primary, relay.clone(), bed.mariadb("replica").server_id(2).start()?)?;
        // Before the login: too long, too short, out of order, for ever.
        for (length, payload) in
            [(200, 10), (10, 200), (0, 0), (0, 50_000), (0xff_ffff, 0), (0xff_ffff, 50_000), (65_537, 65_537)]
        {
            throw(relay.port(), &packet(length, 1, &vec![b'x'; payload]))?;
            throw(relay.port(), &packet(length, 200, &vec![0; payload]))?;
        }
        std::thread::scope(|threads| {
            let flood = |logged_in: bool| {
                let relay = &relay;
                threads.spawn(move || endless(relay, logged_in))
            };
            let floods: Vec<_> = [false, false, true, true].map(flood).into();
            floods.into_iter().try_for_each(|flood| flood.join().expect("a flood panicked"))
        })?;
        // Within the limit, and beyond it.
        let mut session = relay.session()?;
        let fits = format!("SELECT '{}'", "x".repeat((1 << 20) - 100));
        ensure!(session.query(&fits)?[0][0].as_ref().map(String::len) == Some((1 << 20) - 100));
        let error = session.query(&format!("SELECT '{}'", "x".repeat(1 << 20))).err().context("it was taken")?;
        ensure!(code_of(&error) == Some(1153), "{error:#}");
        watched.check()
    });
}

/// Packets of 16 MiB - 1 that never end, up to 512 MiB; ends when the relay has had enough.
fn endless(relay: &RelayProc, logged_in: bool) -> Result<()> {
    let chunk = vec![b' '; 1 << 20];
    let mut session;
    let mut stream;
    let send: &mut dyn FnMut(&[u8]) -> bool = if logged_in {
        session = relay.session()?;
        &mut |bytes| session.send_raw(bytes).is_ok()
    } else {
        stream = connect(relay.port())?;
        &mut |bytes| stream.write_all(bytes).is_ok()
    };
    for part in 0..32_u8 {
        let first = send(&packet(0xff_ffff, part.wrapping_add(u8::from(!logged_in)), b"\x03SELECT '"));
        let rest = (0..16).all(|_| send(&chunk));
        if !(first && rest) {
            return Ok(());
        }
    }
    anyhow::bail!("the relay took 512 MiB of one command")
}

#[test]
fn connections_that_end_at_any_byte_of_a_conversation_leave_nothing_behind() {
    scenario("cut_conversations", |bed| {
        let certs = Certs::create(bed.root(), "relay")?;
        let primary = bed.mariadb("primary").start()?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        let watched = Watched::start(primary.clone(), relay.clone(), bed.mariadb("replica").server_id(2).start()?)?;
        // The login, cut at every byte, and what follows it, cut at every third.
        for end in (0..210).chain((210..CONVERSATION.len()).step_by(7)) {
            throw(relay.port(), &CONVERSATION[..end])?;
        }
        let commands = [
            packet(34, 0, b"\x03SET @slave_connect_state='0-1-1'\0\0"),
            packet(18, 0, b"\x15\x37\0\0\0\0\0\0\xaa\x61\0\0\0\0\0\0\0\0"),
            packet(11, 0, b"\x12\x04\0\0\0\x02\0\x37\0\0\0"),
        ]
        .concat();
        for end in 0..commands.len() {
            relay.session()?.send_raw(&commands[..end])?;
        }
        let metrics = || relay.metric("baton_relay_fanout_connections");
        wait_until("only the replica's connection to be left", metrics, |open| *open == Some(1.0))?;
        watched.check()?;
        // TLS asked for, and then something else, or nothing.
        let secure = bed.relay("secure").server_id(9002).behind(&relay).set("listen", "login_timeout", "\"300ms\"");
        let secure = secure.set("listen", "tls_cert_file", &format!("{:?}", certs.cert)).without_waiting();
        let secure = secure.set("listen", "tls_key_file", &format!("{:?}", certs.key)).start()?;
        wait_until("its port", || Ok(connect(secure.port()).is_ok()), |open| *open)?;
        let request = packet(32, 1, &[&0x8038_aa05_u32.to_le_bytes()[..], &[0; 28]].concat());
        for after in [&b""[..], b"garbage", CLIENT_HELLO, &CONVERSATION[..200], &[0x16; 5000]] {
            throw(secure.port(), &[&request, after].concat())?;
            let mut stream = connect(secure.port())?;
            stream.write_all(&request)?;
            stream.write_all(after)?;
            drained(&mut stream)?;
            throw(secure.http_port(), after)?;
        }
        // Where TLS is not offered, it is refused with an answer.
        let answer = throw(relay.port(), &request)?;
        ensure!(answer.windows(13).any(|text| text == b"Bad handshake"), "{}", String::from_utf8_lossy(&answer));
        let log = fs::read_to_string(secure.log_file())?;
        ensure!(secure.proc()?.is_running() && !log.contains("panicked"), "{log}");
        watched.check()
    });
}

#[test]
fn statements_made_to_exhaust_a_server_are_answered() {
    scenario("exhausting_statements", |bed| {
        let primary = bed.mariadb("primary").start()?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        let watched = Watched::start(primary, relay.clone(), bed.mariadb("replica").server_id(2).start()?)?;
        let mut session = relay.session()?;
        let deep =
            |open: &str, close: &str, count: usize| format!("SELECT {}1{}", open.repeat(count), close.repeat(count));
        let statements = [
            deep("(", ")", 200_000),
            deep("UPPER(", ")", 100_000),
            deep("NOT ", "", 200_000),
            deep("-", "", 500_000),
            deep("/*", "*/", 100_000),
            format!("SELECT {}", "1,".repeat(400_000)),
            format!("SELECT {}1", "@@server_id,".repeat(80_000)),
            format!("SHOW VARIABLES LIKE '{}x'", "%".repeat(500_000)),
            format!("SET {}", (0..200).map(|i| format!("@v{i}=1")).collect::<Vec<_>>().join(",")),
            format!("SELECT '{}", "\\".repeat(900_001)),
            format!("SELECT `{}`", "`".repeat(900_000)),
            "SELECT \u{1f4a5}\0\u{feff}".to_owned(),
            "SET @a = @a, @slave_connect_state = NULL".to_owned(),
            "KILL 99999999999999999999999999".to_owned(),
            "SELECT BINLOG_GTID_POS('mysql-bin.000001', 99999999999999999999)".to_owned(),
            "SELECT BINLOG_GTID_POS('../../../../etc/passwd', 4)".to_owned(),
            format!("SELECT BINLOG_GTID_POS('mysql-bin.{}', 4)", "9".repeat(1000)),
        ];
        for statement in &statements {
            let answer = session.query(statement);
            let answered = answer.as_ref().map_or_else(|error| code_of(error).is_some(), |_| true);
            let shown: String = statement.chars().take(60).collect();
            ensure!(answered, "{shown}: no answer: {:#}", answer.unwrap_err());
            session.query("SELECT @@server_id").with_context(|| format!("after {shown}"))?;
        }
        session.send_command(b"\x03SELECT \xff\xfe\xc3\x28")?;
        let _any_answer = session.read_answer()?;
        watched.check()
    });
}
