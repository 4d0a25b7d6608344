// Finds the kind of store for an address, and opens it. all_stores.h lists the kinds.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/sleep.h"
#include "base/sync.h"
#include "repository/all_stores.h"
#include "repository/store_waits.h"

namespace isr {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxUrlSize = 4096;
constexpr std::chrono::milliseconds kLongestOpenDelay{500};

/// "http" of "http://…", also "c" of "c:…"; empty for a path.
std::string_view scheme_of(std::string_view url) {
  const auto colon = url.find(':');
  if (colon == std::string_view::npos || colon == 0 || !is_ascii_letter(url.front())) return {};
  const auto scheme = url.substr(0, colon);
  const bool good = std::all_of(scheme.begin(), scheme.end(), [](char c) {
    return is_ascii_letter(c) || is_ascii_digit(c) || c == '+' || c == '-' || c == '.';
  });
  return good ? scheme : std::string_view{};
}

/// "a directory, http:// or https://"
std::string known_addresses() {
  const auto schemes = all_store_schemes();
  std::string text(schemes.front().shown);
  for (std::size_t i = 1; i < schemes.size(); ++i) {
    text += fmt::format("{}{}", i + 1 == schemes.size() ? " or " : ", ", schemes[i].shown);
  }
  return text;
}

StoreScheme find_scheme(std::string_view name) {
  for (const StoreScheme& scheme : all_store_schemes()) {
    if (scheme.name == name) return scheme;
  }
  refuse_address(fmt::format("{}:// is not supported; use {}", name, known_addresses()));
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
    // The mutex is not held, because this may last until a time-out. Two threads may both open the store; that does no
    // harm.
    BlobStorePtr store = open_(stop);
    *store_.lock() = store;
    return store;
  }

  std::function<BlobStorePtr(const std::stop_token&)> open_;
  Sync<BlobStorePtr> store_;
};

/// Repeats the first contact, because a server that is restarting refuses connections for a moment.
BlobStorePtr open_patiently(const StoreScheme& scheme, const std::string& url, const StoreOptions& options,
                            const std::stop_token& stop) {
  const auto until = std::chrono::steady_clock::now() + options.open_patience;
  for (int failed = 1;; ++failed) {
    std::optional<std::chrono::milliseconds> retry_after;
    try {
      return scheme.open(url, options, stop);
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

void refuse_address(const std::string& why) { throw Error(ErrorKind::kUsage, "repository address: " + why); }

bool is_ascii_digit(char c) noexcept { return c >= '0' && c <= '9'; }
bool is_ascii_letter(char c) noexcept { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

std::string ascii_lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
  }
  return out;
}

std::string canonical_directory(const std::string& path) {
  std::error_code error;
  const fs::path absolute = fs::absolute(path, error);
  if (error) refuse_address("the current directory cannot be found; give an absolute path");
  std::string out = absolute.lexically_normal().string();
  while (out.size() > 1 && out.back() == '/') out.pop_back();
  // Two leading slashes mean the same as one.
  if (out.starts_with("//")) out.erase(0, out.find_first_not_of('/') - 1);
  return out;
}

BlobStorePtr make_lazy_store(const std::string& url, std::function<BlobStorePtr(const std::stop_token&)> open) {
  return std::make_shared<LazyStore>(canonical_store_url(url), std::move(open));
}

std::string canonical_store_url(const std::string& url) {
  if (url.empty()) refuse_address("it is empty");
  if (url.size() > kMaxUrlSize) refuse_address("it is too long");
  const bool controls = std::any_of(url.begin(), url.end(), [](char c) { return (c >= 0 && c < 0x20) || c == 0x7f; });
  if (controls) refuse_address("it holds a control character");

  const std::string scheme = ascii_lower(scheme_of(url));
  if (scheme.empty()) return canonical_directory(url);
  const std::string_view rest = std::string_view(url).substr(scheme.size() + 1);
  if (!rest.starts_with("//")) {
    refuse_address("it is neither a directory nor a URL (write ./ before a path that holds a colon)");
  }
  return find_scheme(scheme).canonical(rest.substr(2));
}

BlobStorePtr open_store(const std::string& url, const StoreOptions& options, std::stop_token stop) {
  const std::string canonical = canonical_store_url(url);
  const StoreScheme scheme = canonical.starts_with('/') ? directory_scheme() : find_scheme(scheme_of(canonical));
  const StoreWaits::Call waits(options.waits.get());
  return make_resolving(open_patiently(scheme, canonical, options, stop), {.attempts = options.attempts},
                        options.waits);
}

}  // namespace isr
