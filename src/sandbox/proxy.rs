//! A breakable TCP proxy: the network between two parties, with its accidents.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[derive(Clone, Copy, Debug)]
struct State {
    passes: bool,
    refuses: bool,
    /// How often everything was cut: a connection that saw a lower number must end, however short the cut was.
    cuts: u64,
}

/// Listens on 127.0.0.1 and passes each connection on to one address. Dropping it cuts them all.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    _serving: JoinSet<()>,
}

impl Proxy {
    /// A proxy to `port` of 127.0.0.1 that passes everything. Must be called within a Tokio runtime.
    ///
    /// Between a driver and a mongod the driver needs `directConnection=true`: it would find the way around otherwise.
    pub async fn start(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("cannot open a proxy on 127.0.0.1")?;
        let address = listener.local_addr().context("the proxy has no address")?;
        let (state, watched) = watch::channel(State {
            passes: true,
            refuses: false,
            cuts: 0,
        });
        let mut _serving = JoinSet::new();
        _serving.spawn(serve(listener, port, watched));
        Ok(Self {
            address,
            state,
            _serving,
        })
    }

    /// Where to connect instead of the real address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Passes everything again. Connections in a black hole go on where they were.
    pub fn pass(&self) {
        self.state.send_modify(|state| {
            *state = State {
                passes: true,
                refuses: false,
                ..*state
            }
        });
    }

    /// Closes every connection, and each new one as soon as it is made.
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            *state = State {
                passes: false,
                refuses: true,
                cuts: state.cuts + 1,
            }
        });
    }

    /// Keeps every connection open and takes new ones, but lets no byte through.
    pub fn black_hole(&self) {
        self.state.send_modify(|state| {
            *state = State {
                passes: false,
                refuses: false,
                ..*state
            }
        });
    }
}

async fn serve(listener: TcpListener, port: u16, state: watch::Receiver<State>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(client, port, state.clone()));
    }
}

/// Ends when either side closes, when the proxy is cut or when it goes.
async fn connection(mut client: TcpStream, port: u16, mut state: watch::Receiver<State>) {
    let born = *state.borrow();
    if born.refuses {
        return;
    }
    let cut = |state: &State| state.cuts != born.cuts;
    match state.wait_for(|state| state.passes || cut(state)).await {
        Ok(state) if !cut(&state) => {}
        _ => return,
    }
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        return;
    };
    let passing = copy_bidirectional(&mut client, &mut server);
    tokio::pin!(passing);
    loop {
        let now = *state.borrow_and_update();
        if cut(&now) {
            return;
        }
        tokio::select! {
            _ = &mut passing, if now.passes => return,
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    async fn echo_server() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        port
    }

    async fn round_trip(stream: &mut TcpStream) -> std::io::Result<()> {
        stream.write_all(b"x").await?;
        stream.read_exact(&mut [0]).await.map(drop)
    }

    #[tokio::test]
    async fn passes_then_holds_then_passes_what_it_held() {
        let proxy = Proxy::start(echo_server().await).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        round_trip(&mut stream).await.unwrap();

        proxy.black_hole();
        stream.write_all(b"held").await.unwrap();
        let mut answer = [0; 4];
        assert!(
            timeout(Duration::from_millis(50), stream.read_exact(&mut answer))
                .await
                .is_err()
        );
        proxy.pass();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"held");
    }

    #[tokio::test]
    async fn a_cut_ends_old_and_new_connections_until_it_passes_again() {
        let proxy = Proxy::start(echo_server().await).await.unwrap();
        let mut old = TcpStream::connect(proxy.address()).await.unwrap();
        round_trip(&mut old).await.unwrap();

        proxy.cut();
        proxy.pass();
        assert!(round_trip(&mut old).await.is_err(), "a cut of no length");
        proxy.cut();
        let mut new = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(round_trip(&mut new).await.is_err());
        proxy.pass();
        round_trip(&mut TcpStream::connect(proxy.address()).await.unwrap())
            .await
            .unwrap();
    }
}
