//! The acker and the primary are dead: what the old host's disk still has.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result, ensure};
use baton_testbed::{MariaDb, RelayProc, scenario, wait_until, witness};
use serde_json::{Value, json};

use crate::support::*;

/// An agent as far as a rescue asks it: `GET /v1/binlog/{file}?from=`.
fn agent(server: &MariaDb) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let server = server.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that hangs up is not the agent's affair.
            let _ = serve(stream, &server);
        }
    });
    Ok(port)
}

fn serve(mut stream: TcpStream, server: &MariaDb) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().context("a request")??;
    let headers: Vec<String> = lines.map_while(|line| line.ok().filter(|l| !l.is_empty())).collect();
    let allowed = headers.iter().any(|h| h.eq_ignore_ascii_case(&format!("authorization: Bearer {TOKEN}")));
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (file, from) = path.trim_start_matches("/v1/binlog/").split_once("?from=").context("a file and an offset")?;
    let (status, body) = match std::fs::File::open(server.binlog_path(file)) {
        _ if !allowed => ("401 Unauthorized", b"{\"error\":\"token\",\"hint\":\"\"}".to_vec()),
        Err(_) => ("404 Not Found", Vec::new()),
        Ok(mut file) => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            ("200 OK", bytes.split_off(from.parse::<usize>()?.min(bytes.len())))
        }
    };
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len())?;
    Ok(stream.write_all(&body)?)
}

/// Orders a rescue of grant [2,1]: the status and the answer.
fn rescue(cluster: &Cluster, relay: &RelayProc, agent: u16) -> Result<(u16, Value)> {
    let order = json!({"agent": format!("127.0.0.1:{agent}"), "term": cluster.term()?, "grant": [2, 1]});
    let (status, body) = relay.post("/v1/rescue", TOKEN, &order)?;
    Ok((status, serde_json::from_str(&body)?))
}

#[test]
fn a_standby_completes_its_log_from_the_dead_primarys_files() {
    scenario("rescue", |bed| {
        let cluster = Cluster::start(bed, 2)?;
        let [one, two] = [0, 1].map(|i| cluster.servers[i].clone());
        let (acker, standby) = (cluster.relay(1).start()?, cluster.relay(2).start()?);
        cluster.bootstrap(&acker)?;
        attach(&two, &standby)?;
        insert(&one, 10)?;
        let head = acker.head_gtid()?;
        wait_until("the standby to have it", || standby.head_gtid(), |gtid| *gtid == head)?;
        standby.kill9()?;
        insert(&one, 10)?;
        one.sql("FLUSH BINARY LOGS")?;
        insert(&one, 10)?;
        let truth = one.gtid_binlog_pos()?;
        acker.kill9()?;
        one.kill9()?;
        // Half an event, as a crash leaves it, is not of the log.
        let last = one.binlog_path("mysql-bin.000002");
        let torn = std::fs::read(one.binlog_path("mysql-bin.000001"))?[4..60].to_vec();
        std::fs::OpenOptions::new().append(true).open(&last)?.write_all(&torn)?;

        standby.restart()?;
        let asked = json!({"phase": "fencing", "primary": null, "old_primary": "db-1", "epoch": 2, "asked": [2, 1],
                           "grant_holder": "relay-1", "grant_log_id": null});
        // Nobody asked for it yet.
        let (status, body) = rescue(&cluster, &standby, 1)?;
        ensure!(status == 409, "{status}: {body}");
        cluster.write(&one, [1, 1], None, &asked)?;
        // The host does not answer: the promise stands, and the log is as it was.
        let (status, body) = rescue(&cluster, &standby, 1)?;
        ensure!(status == 502, "{status}: {body}");
        ensure!(standby.status()?["upstream"]["promised"] == json!([2, 1]));
        let agent = agent(&one)?;
        let (status, answer) = rescue(&cluster, &standby, agent)?;
        ensure!(status == 200 && answer["complete"] == true, "{status}: {answer}");
        ensure!(answer["tail"]["gtid"] == truth.as_str() && answer["tail"]["file"] == "mysql-bin.000002", "{answer}");
        // The same again brings nothing new.
        let (status, again) = rescue(&cluster, &standby, agent)?;
        ensure!(status == 200 && again["tail"] == answer["tail"], "{status}: {again}");

        let (first, shift) = cluster.prepare(&two, &answer["tail"])?;
        cluster.epoch(2, &two, Some(&first), shift, &truth)?;
        cluster.steady(&two, [2, 1], Some(&standby))?;
        streams(&standby, &two, true)?;
        cluster.open(&two)?;
        insert(&two, 5)?;
        standby.wait_head(&two)?;
        ensure!(witness::check_each_once(&standby)? > 30, "too few transactions");
        Ok(())
    });
}
