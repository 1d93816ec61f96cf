//! A forward proxy that follows a script, and clients that go through it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use certhookd::config::{Config, Credentials};
use certhookd::sender::{Client, Lookup, Policy, Proxy};
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::fixture::LIMIT;
use crate::sender::support;

/// What the proxy does with a CONNECT.
#[derive(Clone, Debug)]
pub enum Script {
    /// Leads to the target.
    Tunnel,
    /// Says these bytes and closes.
    Says(&'static str),
    /// Leads to the target, says so with these bytes, and closes as soon as a byte comes.
    Breaks,
    /// Closes without a word.
    Closes,
    /// Says nothing.
    Hangs,
}

pub const UNKNOWN: &str = "HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n";

/// A request as the proxy got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    pub target: String,
    pub head: String,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    grown: Arc<Notify>,
    default: Option<Script>,
    of_target: HashMap<String, Script>,
    /// What it does with other methods, if it does not say 501.
    of_others: Option<Script>,
    /// Whether it says nothing to any request.
    is_silent: bool,
    login: Option<String>,
}

/// Listens on a port of 127.0.0.1 that it keeps when it is started again.
pub struct Scripted {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    tls: Option<TlsAcceptor>,
    serving: Option<JoinSet<()>>,
}

impl Scripted {
    pub async fn start() -> Self {
        Self::over(None).await
    }

    /// Behind TLS, where there is an acceptor.
    pub async fn over(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut proxy = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
            tls,
            serving: None,
        };
        proxy.serve(listener);
        proxy
    }

    fn serve(&mut self, listener: TcpListener) {
        let (state, tls) = (Arc::clone(&self.state), self.tls.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (state, tls) = (Arc::clone(&state), tls.clone());
                connections.spawn(async move {
                    match tls {
                        Some(tls) => serve(tls.accept(stream).await?, &state).await,
                        None => serve(stream, &state).await,
                    }
                });
            }
        });
        self.serving = Some(serving);
    }

    /// Closes its port and breaks every connection.
    pub async fn kill(&mut self) {
        self.serving.take().unwrap().shutdown().await;
    }

    pub async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Does that with CONNECT to each target that has no script of its own.
    pub fn does(&self, script: Script) {
        self.state.lock().default = Some(script);
    }

    pub fn does_for(&self, target: impl Into<String>, script: Script) {
        self.state.lock().of_target.insert(target.into(), script);
    }

    /// Does that with all methods but CONNECT.
    pub fn does_for_others(&self, script: Script) {
        self.state.lock().of_others = Some(script);
    }

    pub fn is_silent(&self, is_silent: bool) {
        self.state.lock().is_silent = is_silent;
    }

    /// Answers 407 unless a request brings this, `USER:PASSWORD`.
    pub fn wants(&self, login: Option<&str>) {
        self.state.lock().login = login.map(|login| format!("Basic {}", STANDARD.encode(login)));
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().asked.clone()
    }

    /// Waits until it was asked for that many targets.
    pub async fn asked_for(&self, count: usize) {
        let grown = Arc::clone(&self.state.lock().grown);
        let asked = async {
            while self.targets().len() < count {
                grown.notified().await;
            }
        };
        tokio::time::timeout(LIMIT, asked).await.unwrap();
    }

    /// The targets of CONNECT, in order.
    pub fn targets(&self) -> Vec<String> {
        let asked = self.asked().into_iter().filter(|asked| asked.method == "CONNECT");
        asked.map(|asked| asked.target).collect()
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, state: &Mutex<State>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let script = {
        let mut state = state.lock();
        let asked = Asked {
            method: method.clone(),
            target: target.clone(),
            head: head.clone(),
        };
        state.asked.push(asked);
        state.grown.notify_one();
        let login = state
            .login
            .as_ref()
            .map(|login| format!("proxy-authorization: {login}\r\n"));
        let is_refused = login.is_some_and(|login| !head.to_ascii_lowercase().contains(&login.to_ascii_lowercase()));
        let of_target = state.of_target.get(&target).or(state.default.as_ref());
        match of_target.cloned().unwrap_or(Script::Tunnel) {
            _ if state.is_silent => Script::Hangs,
            _ if method != "CONNECT" => state.of_others.clone().unwrap_or(Script::Says(UNKNOWN)),
            _ if is_refused => Script::Says("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"),
            script => script,
        }
    };
    match script {
        Script::Tunnel => lead(stream, &target).await,
        Script::Says(bytes) => {
            stream.write_all(bytes.as_bytes()).await?;
            stream.shutdown().await
        }
        Script::Breaks => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            stream.read_u8().await.map(drop)
        }
        Script::Closes => Ok(()),
        Script::Hangs => std::future::pending().await,
    }
}

async fn lead(mut stream: impl AsyncRead + AsyncWrite + Unpin, to: &str) -> io::Result<()> {
    let Ok(mut target) = TcpStream::connect(to).await else {
        return stream
            .write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            .await;
    };
    stream
        .write_all(b"HTTP/1.1 200 Connection established\r\nX-Proxy: test\r\n\r\n")
        .await?;
    copy_bidirectional(&mut stream, &mut target).await.map(drop)
}

/// The proxy as `config.toml` would configure it.
pub fn proxy(url: &str, no_proxy: &str) -> Proxy {
    proxy_found_by(url, no_proxy, found_at(&[("proxy.test", "127.0.0.1")]))
}

pub fn proxy_found_by(url: &str, no_proxy: &str, lookup: Lookup) -> Proxy {
    let delivery = configured(url, no_proxy).delivery;
    Proxy::new(delivery.proxy, delivery.no_proxy, lookup).unwrap()
}

pub fn configured(url: &str, no_proxy: &str) -> Config {
    let variables = [
        ("CERTHOOKD_MONGODB__URI", "mongodb://127.0.0.1/"),
        ("CERTHOOKD_DELIVERY__PROXY", url),
        ("CERTHOOKD_DELIVERY__NO_PROXY", no_proxy),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Config::load(None, &variables, &Credentials::default()).unwrap()
}

/// Finds these names at these addresses, and no other name.
pub fn found_at(names: &[(&str, &str)]) -> Lookup {
    let names: HashMap<String, IpAddr> = names
        .iter()
        .map(|(name, address)| ((*name).to_owned(), address.parse().unwrap()))
        .collect();
    Arc::new(move |name| {
        let found = names.get(&name).map(|address| vec![*address]);
        std::future::ready(found.ok_or_else(|| io::Error::other("no such name"))).boxed()
    })
}

/// A client behind that proxy, for which every name leads to 127.0.0.1.
pub fn client(proxy: &Proxy) -> Client {
    client_of(support::policy(), proxy)
}

pub fn client_of(policy: Policy, proxy: &Proxy) -> Client {
    let lookup: Lookup = Arc::new(|_| std::future::ready(Ok(vec![IpAddr::from([127, 0, 0, 1])])).boxed());
    Client::with_proxy(policy, lookup, proxy.clone()).unwrap()
}
