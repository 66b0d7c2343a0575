//! The event stream.

use super::*;
use crate::fanout::ReplicaState;

#[tokio::test]
async fn a_watcher_first_learns_the_present_state() {
    let view = Scripted::new();
    view.attach(7, "db-2");
    let server = start(&view, options()).await;
    let mut watcher = Watcher::attach(server.at).await;
    let kinds = ["hello", "head", "upstream", "replicas"];
    let mut lines = Vec::new();
    for kind in kinds {
        let line = watcher.next().await.unwrap();
        assert_eq!(line["type"], kind);
        lines.push(line);
    }
    assert_eq!(lines[0]["relay"], "relay-1");
    assert_eq!(lines[1]["head"]["position"], 918);
    assert_eq!(lines[2]["upstream"]["address"], "10.0.1.5:3306");
    assert_eq!(
        (&lines[3]["replicas"][0]["event"], &lines[3]["replicas"][0]["replica"]["name"]),
        (&"attached".into(), &"db-2".into())
    );
}

#[tokio::test]
async fn what_happens_is_told_to_every_watcher() {
    let view = Scripted::new();
    let server = start(&view, options()).await;
    let mut watchers = [Watcher::attach(server.at).await, Watcher::attach(server.at).await];
    for watcher in &mut watchers {
        watcher.of("replicas").await;
    }
    assert_eq!(view.metrics.http_watchers.get(), 2);

    view.upstream.send_modify(|u| {
        u.state = UpstreamState::Diverged;
        u.hint = Some("re-clone".into());
    });
    for watcher in &mut watchers {
        let line = watcher.of("upstream").await;
        assert_eq!((&line["upstream"]["state"], &line["upstream"]["hint"]), (&"diverged".into(), &"re-clone".into()));
    }
    let replica = view.attach(7, "db-2");
    for watcher in &mut watchers {
        assert_eq!(watcher.of("replicas").await["replicas"][0]["event"], "attached");
    }
    replica.set_state(ReplicaState::Streaming);
    for watcher in &mut watchers {
        let line = watcher.of("replicas").await;
        assert_eq!(
            (&line["replicas"][0]["event"], &line["replicas"][0]["replica"]["state"]),
            (&"state".into(), &"streaming".into())
        );
    }
    view.registry.detach(&replica);
    for watcher in &mut watchers {
        let line = watcher.of("replicas").await;
        assert_eq!(
            (&line["replicas"][0]["event"], &line["replicas"][0]["connection"]),
            (&"detached".into(), &7.into())
        );
    }
    for watcher in &mut watchers {
        watcher.of("heartbeat").await;
        assert_eq!(watcher.of("lag").await["lag"]["cluster"], "shop");
    }
    drop(watchers);
    until("nobody watches", || view.metrics.http_watchers.get() == 0).await;
}

#[tokio::test]
async fn of_a_fast_moving_head_the_latest_is_always_told() {
    let view = Scripted::new();
    let server = start(&view, options()).await;
    let mut watcher = Watcher::attach(server.at).await;
    watcher.of("replicas").await;
    for offset in 1000..=5000 {
        view.head.send_replace(Some(head_at(offset)));
        tokio::task::yield_now().await;
    }
    let mut told = 0;
    loop {
        told += 1;
        if watcher.of("head").await["head"]["position"] == 5000 {
            break;
        }
    }
    assert!(told < 4000, "{told} lines: not limited at all");
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_dropped_with_a_last_line() {
    let view = Scripted::new();
    let server = start(&view, options()).await;
    let mut watcher = Watcher::attach(server.at).await;
    watcher.of("replicas").await;
    let text = "x".repeat(256 * 1024);
    until("it is dropped", || {
        view.upstream.send_modify(|u| (u.error, u.connects) = (Some(text.clone()), u.connects + 1));
        view.metrics.http_dropped_watchers.get() == 1
    })
    .await;
    let mut last = Value::Null;
    while let Some(line) = watcher.next().await {
        last = line;
    }
    assert_eq!(last["type"], "end");
    assert!(last["error"].as_str().unwrap().contains("too slowly"), "{last}");
}

#[tokio::test]
async fn a_connection_that_takes_nothing_is_closed() {
    let view = Scripted::new();
    let mut options = options();
    options.limits.stall_timeout = Duration::from_millis(100);
    let server = start(&view, options).await;
    let mut watcher = Watcher::attach(server.at).await;
    watcher.of("replicas").await;
    let text = "x".repeat(256 * 1024);
    until("it is closed", || {
        view.upstream.send_modify(|u| (u.error, u.connects) = (Some(text.clone()), u.connects + 1));
        view.metrics.http_connections.get() == 0
    })
    .await;
    assert_eq!(view.metrics.http_watchers.get(), 0);
    drop(watcher);
}

#[tokio::test]
async fn watchers_are_limited_and_told_when_the_relay_stops() {
    let view = Scripted::new();
    let mut options = options();
    options.limits.max_watchers = 1;
    let mut server = start(&view, options).await;
    let mut watcher = Watcher::attach(server.at).await;
    watcher.of("hello").await;
    let answer = get(server.at, "/v1/watch").await;
    assert!(answer.status == 503 && answer.json()["error"].as_str().unwrap().contains("1 watchers"), "{}", answer.body);
    server.cancel.cancel();
    let end = watcher.of("end").await;
    assert!(end["error"].as_str().unwrap().contains("shutting down"), "{end}");
    assert!(watcher.next().await.is_none());
    soon("the server's end", &mut server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn how_far_the_primary_is_makes_no_line_of_its_own() {
    let view = Scripted::new();
    let server = start(&view, options()).await;
    let mut watcher = Watcher::attach(server.at).await;
    watcher.of("replicas").await;
    view.upstream.send_modify(|u| u.primary_gtid = Some("0-1-99".into()));
    loop {
        let line = watcher.next().await.unwrap();
        assert_ne!(line["type"], "upstream");
        if line["type"] == "heartbeat" {
            break;
        }
    }
    view.upstream.send_modify(|u| u.connects = 77);
    let line = watcher.of("upstream").await;
    assert_eq!((&line["upstream"]["connects"], &line["upstream"]["primary_gtid"]), (&77.into(), &"0-1-99".into()));
}
