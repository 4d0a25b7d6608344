// serve: serves a repository directory over HTTP, in the foreground, until it is told to stop.
#include <fmt/format.h>

#include <charconv>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>

#include "cli/app.h"
#include "cli/commands.h"
#include "server/server.h"

namespace isr {
namespace {

struct ServeOptions {
  std::string root = ".";
  std::string listen = "127.0.0.1:7460";
  std::string port_file;
  std::vector<std::string> host_names;
  bool read_only = false;
};

[[noreturn]] void refuse_listen(const std::string& text) {
  throw Error(ErrorKind::kUsage, fmt::format("--listen: \"{}\" is not ADDRESS:PORT", escaped(text)),
              {"for example 127.0.0.1:7460, [::1]:7460, or 127.0.0.1:0 for any free port"});
}

void parse_listen(const std::string& text, ServerOptions& out) {
  const auto colon = text.rfind(':');
  if (colon == std::string::npos) refuse_listen(text);
  const std::string port = text.substr(colon + 1);
  const auto [end, failure] = std::from_chars(port.data(), port.data() + port.size(), out.port);
  if (port.empty() || failure != std::errc() || end != port.data() + port.size()) refuse_listen(text);
  std::string address = text.substr(0, colon);
  const bool brackets = address.size() > 2 && address.front() == '[' && address.back() == ']';
  if (brackets) address = address.substr(1, address.size() - 2);
  if (!brackets && address.find(':') != std::string::npos) refuse_listen(text);
  if (!address.empty()) out.address = address;
}

void wait_for_stop(const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any stopped;
  std::unique_lock lock(mutex);
  stopped.wait(lock, stop, [] { return false; });
}

int run_serve(CommandContext& context, const ServeOptions& options) {
  const std::stop_token stop = context.stop();
  ServerOptions server_options;
  server_options.root = fs::absolute(options.root).lexically_normal();
  server_options.port_file = options.port_file.empty() ? fs::path() : fs::absolute(options.port_file);
  server_options.read_only = options.read_only;
  server_options.host_names = options.host_names;
  parse_listen(options.listen, server_options);
  const auto server = start_server(server_options);
  const std::string url = server->url() + "/";
  if (context.out.json()) {
    context.out.document({{"type", "event"},
                          {"event", "serving"},
                          {"root", server_options.root.string()},
                          {"url", url},
                          {"port", server->port()},
                          {"read_only", options.read_only}});
  } else {
    context.out.line(fmt::format("Serving {} at {}", server_options.root.string(), url));
  }
  wait_for_stop(stop);
  server->stop();
  return 0;
}

}  // namespace

void register_serve(App& app) {
  auto options = std::make_shared<ServeOptions>();
  app.command(Group::kAdministration, "serve", "serve a repository directory over HTTP")
      .option("--root", options->root, "DIR", "the repository's directory (.)")
      .option("--listen", options->listen, "A:P", "address and port (127.0.0.1:7460); port 0: any free one")
      .option("--port-file", options->port_file, "FILE", "write the port there once it listens")
      .option("--host-name", options->host_names, "NAME", "another host name that clients may use, behind a TLS proxy")
      .flag("--read-only", options->read_only, "refuse every write")
      .note(
          "Loopback addresses only: there is no user check and no TLS in it. To serve other hosts put a\n"
          "TLS proxy with a password in front, or forward the port over ssh. Ctrl-C or SIGTERM ends it.")
      .example("isr serve --root /srv/isr", "at http://127.0.0.1:7460/")
      .example("isr serve --root /srv/isr --listen 127.0.0.1:0 --port-file port --read-only", "any free port")
      .exit_codes({0, 2, 10, 18})
      .run([options](CommandContext& context) { return run_serve(context, *options); });
}

}  // namespace isr
