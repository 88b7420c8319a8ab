// SPDX-License-Identifier: MIT
// bench/pairs/node_pair.js serve ADDRESS | talk ADDRESS CONNECTIONS SIZE WARMUP SECONDS
//
// Request-response with node's net. ADDRESS is a port of 127.0.0.1 (0: any; the server prints "ready PORT"), or a path.
// talk prints one JSON object.
'use strict';
const net = require('net');

function serve(address) {
  const server = net.createServer((socket) => {
    socket.setNoDelay(true);
    socket.on('data', (data) => socket.write(data));
    socket.on('error', () => socket.destroy());
  });
  const ready = () => console.log('ready', address.startsWith('/') ? address : server.address().port);
  if (address.startsWith('/')) server.listen(address, ready);
  else server.listen(Number(address), '127.0.0.1', ready);
  process.on('SIGTERM', () => process.exit(0));
}

function talk(address, connections, size, warmup, seconds) {
  const request = Buffer.alloc(size, 'x');
  const begin = performance.now() + warmup * 1e3;
  const end = begin + seconds * 1e3;
  const latencies = [];
  let open = connections;

  function done() {
    if (--open) return;
    const took = (performance.now() - begin) / 1e3;
    latencies.sort((a, b) => a - b);
    const quantile = (fraction) => +(latencies[Math.floor(fraction * (latencies.length - 1))] * 1e3).toFixed(1);
    console.log(JSON.stringify({ per_second: latencies.length / took, p50_us: quantile(0.5), p99_us: quantile(0.99),
      p999_us: quantile(0.999) }));
  }

  for (let i = 0; i < connections; i++) {
    const socket = address.startsWith('/') ? net.connect(address) : net.connect(Number(address), '127.0.0.1');
    let received = 0;
    let began = 0;
    const next = () => {
      began = performance.now();
      if (began >= end) {
        socket.end();
        done();
        return;
      }
      received = 0;
      socket.write(request);
    };
    socket.setNoDelay(true);
    socket.on('connect', next);
    socket.on('data', (data) => {
      received += data.length;
      if (received < size) return;
      if (began >= begin) latencies.push(performance.now() - began);
      next();
    });
    socket.on('error', (error) => {
      console.error(String(error));
      process.exit(1);
    });
  }
}

const [role, address, ...numbers] = process.argv.slice(2);
if (role === 'serve') serve(address);
else talk(address, ...numbers.map(Number));
