// Store URLs, and the only place here that knows every concrete store. No
// message below repeats a URL with an authority: it may hold a password.
#include <arpa/inet.h>
#include <fmt/format.h>

#include <charconv>
#include <filesystem>

#include "base/sleep.h"
#include "base/sync.h"
#include "repository/blob_store.h"
#include "repository/store_waits.h"

namespace isr {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxUrlSize = 4096;
constexpr std::chrono::milliseconds kLongestOpenDelay{500};

[[noreturn]] void refuse(const std::string& why) { throw Error(ErrorKind::kUsage, "repository address: " + why); }

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
  }
  return out;
}

/// "http" of "http://…", also "c" of "c:…"; empty for a path.
std::string_view scheme_of(std::string_view url) {
  const auto colon = url.find(':');
  if (colon == std::string_view::npos || colon == 0 || !is_letter(url.front())) return {};
  const auto scheme = url.substr(0, colon);
  const bool good = std::all_of(scheme.begin(), scheme.end(),
                                [](char c) { return is_letter(c) || is_digit(c) || c == '+' || c == '-' || c == '.'; });
  return good ? scheme : std::string_view{};
}

std::string absolute_path(const std::string& path) {
  std::error_code error;
  const fs::path absolute = fs::absolute(path, error);
  if (error) refuse("the current directory cannot be found; give an absolute path");
  std::string out = absolute.lexically_normal().string();
  while (out.size() > 1 && out.back() == '/') out.pop_back();
  // Two leading slashes mean the same as one here.
  if (out.starts_with("//")) out.erase(0, out.find_first_not_of('/') - 1);
  return out;
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    const auto byte = i + 2 < text.size() ? from_hex(text.substr(i + 1, 2)) : std::nullopt;
    if (!byte || byte->front() == 0) refuse("a % must be followed by two hex digits");
    out += static_cast<char>(byte->front());
    i += 2;
  }
  return out;
}

std::string path_of_file_url(std::string_view rest) {
  if (rest.starts_with("localhost/")) rest.remove_prefix(9);
  if (!rest.starts_with('/')) refuse("a file:// address cannot name another host; write file:///path");
  return absolute_path(percent_decoded(rest));
}

void check_host(std::string_view host) {
  if (host.starts_with('[')) {
    in6_addr address{};
    const bool closed = host.size() > 2 && host.back() == ']';
    if (!closed || ::inet_pton(AF_INET6, std::string(host.substr(1, host.size() - 2)).c_str(), &address) != 1) {
      refuse("the IPv6 address in brackets is not valid");
    }
    return;
  }
  if (host.empty()) refuse("it names no host");
  const bool good = host.size() <= 253 && std::all_of(host.begin(), host.end(), [](char c) {
                      return is_letter(c) || is_digit(c) || c == '-' || c == '.' || c == '_';
                    });
  if (!good) refuse("the host name is not valid");
}

/// ":8080", or nothing for the scheme's own port.
std::string port_suffix(std::string_view port, bool https) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), value);
  if (error != std::errc() || end != port.data() + port.size() || value == 0 || value > 65535) {
    refuse("the port must be 1 to 65535");
  }
  return value == (https ? 443U : 80U) ? std::string() : fmt::format(":{}", value);
}

void check_url_path(std::string_view path) {
  for (std::string_view rest = path; !rest.empty();) {
    const auto slash = rest.find('/', 1);
    const auto segment = rest.substr(1, slash == std::string_view::npos ? slash : slash - 1);
    if (segment == "." || segment == "..") refuse("\".\" and \"..\" have no place in it");
    rest = slash == std::string_view::npos ? std::string_view{} : rest.substr(slash);
  }
}

std::string canonical_http_url(std::string_view rest, bool https) {
  // Also in the path: a '/' inside a password would put the '@' there.
  if (rest.find('@') != std::string_view::npos) {
    refuse("it must not hold a user name or password; isr asks for them (write %40 for an @ in a path)");
  }
  if (rest.find_first_of("?#\"<>\\^`{|} ") != std::string_view::npos) {
    refuse("it holds a character that a URL path cannot have");
  }
  const auto slash = rest.find('/');
  const std::string_view authority = rest.substr(0, slash);
  std::string_view path = slash == std::string_view::npos ? std::string_view{} : rest.substr(slash);
  while (path.ends_with('/')) path.remove_suffix(1);
  check_url_path(path);

  std::string_view host = authority;
  std::string port;
  const auto bracket = authority.rfind(']');
  const auto colon = authority.find(':', bracket == std::string_view::npos ? 0 : bracket);
  if (colon != std::string_view::npos) {
    host = authority.substr(0, colon);
    if (authority.find(':', colon + 1) != std::string_view::npos) {
      refuse("an IPv6 address must stand in brackets, as in http://[::1]:8080/");
    }
    port = port_suffix(authority.substr(colon + 1), https);
  }
  check_host(host);
  return fmt::format("{}://{}{}{}", https ? "https" : "http", lower(host), port, path);
}

/// Opens the store when it is first asked for something, and again after a failure.
class LazyStore : public BlobStore {
 public:
  LazyStore(std::string url, std::function<BlobStorePtr(const std::stop_token&)> open)
      : BlobStore(std::move(url), true), open_(std::move(open)) {}

  std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range, std::stop_token stop) override {
    return opened(stop)->get(name, range, stop);
  }
  std::optional<std::uint64_t> stat(std::string_view name, std::stop_token stop) override {
    return opened(stop)->stat(name, stop);
  }
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
    return opened(stop)->put_new(name, bytes, stop);
  }
  void put_hint(std::string_view name, ByteView bytes, std::stop_token stop) override {
    opened(stop)->put_hint(name, bytes, stop);
  }
  std::optional<ListPage> list_page(std::string_view prefix, std::string_view after, std::stop_token stop) override {
    return opened(stop)->list_page(prefix, after, stop);
  }
  bool remove(std::string_view name) override { return opened({})->remove(name); }

 private:
  BlobStorePtr opened(const std::stop_token& stop) {
    if (BlobStorePtr store = *store_.lock()) return store;
    // Without the mutex: it may take a time-out. Two that race open it twice, which harms nobody.
    BlobStorePtr store = open_(stop);
    *store_.lock() = store;
    return store;
  }

  std::function<BlobStorePtr(const std::stop_token&)> open_;
  Sync<BlobStorePtr> store_;
};

/// A server that is started again refuses connections for a moment.
BlobStorePtr open_patiently(const std::string& url, const StoreOptions& options, const std::stop_token& stop) {
  const auto until = std::chrono::steady_clock::now() + options.open_patience;
  for (int failed = 1;; ++failed) {
    std::optional<std::chrono::milliseconds> retry_after;
    try {
      return open_http_store(url, options, stop);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kTransient) throw;
      if (const auto* later = dynamic_cast<const RetryLater*>(&error)) retry_after = later->pause();
      const auto delay = retry_delay(failed, retry_after, {.max_delay = kLongestOpenDelay}, 1.0);
      if (std::chrono::steady_clock::now() + delay > until) throw;
      sleep_unless_stopped(delay, stop);
      if (stop.stop_requested()) throw Error(ErrorKind::kCancelled, fmt::format("{} was cancelled", url));
    }
  }
}

}  // namespace

BlobStorePtr make_lazy_store(const std::string& url, std::function<BlobStorePtr(const std::stop_token&)> open) {
  return std::make_shared<LazyStore>(canonical_store_url(url), std::move(open));
}

std::string canonical_store_url(const std::string& url) {
  if (url.empty()) refuse("it is empty");
  if (url.size() > kMaxUrlSize) refuse("it is too long");
  const bool controls = std::any_of(url.begin(), url.end(), [](char c) { return (c >= 0 && c < 0x20) || c == 0x7f; });
  if (controls) refuse("it holds a control character");

  const std::string scheme = lower(scheme_of(url));
  if (scheme.empty()) return absolute_path(url);
  const std::string_view rest = std::string_view(url).substr(scheme.size() + 1);
  if (!rest.starts_with("//")) {
    refuse("it is neither a directory nor a URL (write ./ before a path that holds a colon)");
  }
  const bool ascii = std::all_of(url.begin(), url.end(), [](char c) { return c >= 0; });
  if (scheme == "file") return path_of_file_url(rest.substr(2));
  if (!ascii) refuse("a URL holds ASCII characters only");
  if (scheme == "http" || scheme == "https") return canonical_http_url(rest.substr(2), scheme == "https");
  refuse(fmt::format("{}:// is not supported; use a directory, http:// or https://", scheme));
}

BlobStorePtr open_store(const std::string& url, const StoreOptions& options, std::stop_token stop) {
  const std::string canonical = canonical_store_url(url);
  const bool directory = canonical.starts_with('/');
  const StoreWaits::Call waits(options.waits.get());
  return make_resolving(directory ? make_directory_store(canonical) : open_patiently(canonical, options, stop),
                        {.attempts = options.attempts}, options.waits);
}

}  // namespace isr
