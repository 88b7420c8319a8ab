// SPDX-License-Identifier: MIT
// bench/pairs/Pair.java serve ADDRESS | talk ADDRESS CONNECTIONS SIZE WARMUP SECONDS
//
// Request-response with NIO: blocking SocketChannels, a thread for each connection at both ends. ADDRESS is a port of
// 127.0.0.1 (0: any; the server prints "ready PORT"), or a path. talk prints one JSON object.
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.net.StandardProtocolFamily;
import java.net.StandardSocketOptions;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

public class Pair {
  static boolean isPath(String address) { return address.startsWith("/"); }

  static SocketAddress parse(String address) {
    return isPath(address) ? UnixDomainSocketAddress.of(address)
        : new InetSocketAddress(InetAddress.getLoopbackAddress(), Integer.parseInt(address));
  }

  static void answer(SocketChannel channel) {
    ByteBuffer buffer = ByteBuffer.allocateDirect(1 << 16);
    try (channel) {
      while (channel.read(buffer) > 0) {
        buffer.flip();
        while (buffer.hasRemaining()) channel.write(buffer);
        buffer.clear();
      }
    } catch (IOException gone) {
      // the client's business
    }
  }

  static void serve(String address) throws IOException {
    ServerSocketChannel server = isPath(address) ? ServerSocketChannel.open(StandardProtocolFamily.UNIX)
        : ServerSocketChannel.open(StandardProtocolFamily.INET);
    server.bind(parse(address));
    System.out.println("ready " + (isPath(address) ? address : ((InetSocketAddress) server.getLocalAddress()).getPort()));
    // SIGTERM would end a JVM with 143; the driver wants an orderly end.
    sun.misc.Signal.handle(new sun.misc.Signal("TERM"), signal -> System.exit(0));
    while (true) {
      SocketChannel channel = server.accept();
      if (!isPath(address)) channel.setOption(StandardSocketOptions.TCP_NODELAY, true);
      Thread thread = new Thread(() -> answer(channel));
      thread.setDaemon(true);
      thread.start();
    }
  }

  static class Client extends Thread {
    final String address;
    final int size;
    final long begin, end;
    long[] latencies = new long[1 << 16];
    int count;

    Client(String address, int size, long begin, long end) {
      this.address = address;
      this.size = size;
      this.begin = begin;
      this.end = end;
    }

    @Override public void run() {
      ByteBuffer request = ByteBuffer.allocateDirect(size), reply = ByteBuffer.allocateDirect(size);
      try (SocketChannel channel = SocketChannel.open(parse(address))) {
        if (!isPath(address)) channel.setOption(StandardSocketOptions.TCP_NODELAY, true);
        for (long began; (began = System.nanoTime()) < end;) {
          request.clear();
          while (request.hasRemaining()) channel.write(request);
          reply.clear();
          while (reply.hasRemaining())
            if (channel.read(reply) < 0) throw new IOException("end of stream");
          if (began < begin) continue;
          if (count == latencies.length) latencies = Arrays.copyOf(latencies, 2 * count);
          latencies[count++] = System.nanoTime() - began;
        }
      } catch (IOException failed) {
        failed.printStackTrace();
        System.exit(1);
      }
    }
  }

  static void talk(String address, int connections, int size, double warmup, double seconds) throws Exception {
    long begin = System.nanoTime() + (long) (warmup * 1e9);
    List<Client> clients = new ArrayList<>();
    for (int i = 0; i < connections; i++) clients.add(new Client(address, size, begin, begin + (long) (seconds * 1e9)));
    for (Client client : clients) client.start();
    for (Client client : clients) client.join();
    double took = (System.nanoTime() - begin) / 1e9;
    long[] all = clients.stream().flatMapToLong(c -> Arrays.stream(c.latencies, 0, c.count)).sorted().toArray();
    System.out.printf("{\"per_second\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f}%n", all.length / took,
        quantile(all, 0.5), quantile(all, 0.99), quantile(all, 0.999));
  }

  static double quantile(long[] sorted, double fraction) { return sorted[(int) (fraction * (sorted.length - 1))] / 1e3; }

  public static void main(String[] args) throws Exception {
    if (args[0].equals("serve")) serve(args[1]);
    else talk(args[1], Integer.parseInt(args[2]), Integer.parseInt(args[3]), Double.parseDouble(args[4]), Double.parseDouble(args[5]));
  }
}
