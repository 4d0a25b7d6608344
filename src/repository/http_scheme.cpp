// The canonical form of an http:// or https:// address. No message repeats the address, because it may hold a password.
#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "repository/all_stores.h"

namespace isr {
namespace {

void check_host(std::string_view host) {
  if (host.starts_with('[')) {
    in6_addr address{};
    const bool closed = host.size() > 2 && host.back() == ']';
    if (!closed || ::inet_pton(AF_INET6, std::string(host.substr(1, host.size() - 2)).c_str(), &address) != 1) {
      refuse_address("the IPv6 address in brackets is not valid");
    }
    return;
  }
  if (host.empty()) refuse_address("it has no host name");
  const bool good = host.size() <= 253 && std::all_of(host.begin(), host.end(), [](char c) {
                      return is_ascii_letter(c) || is_ascii_digit(c) || c == '-' || c == '.' || c == '_';
                    });
  if (!good) refuse_address("the host name is not valid");
}

/// ":8080", or nothing for the scheme's own port.
std::string port_suffix(std::string_view port, bool https) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), value);
  if (error != std::errc() || end != port.data() + port.size() || value == 0 || value > 65535) {
    refuse_address("the port must be 1 to 65535");
  }
  return value == (https ? 443U : 80U) ? std::string() : fmt::format(":{}", value);
}

void check_url_path(std::string_view path) {
  for (std::string_view rest = path; !rest.empty();) {
    const auto slash = rest.find('/', 1);
    const auto segment = rest.substr(1, slash == std::string_view::npos ? slash : slash - 1);
    if (segment == "." || segment == "..") refuse_address("it must not have \".\" or \"..\" in its path");
    rest = slash == std::string_view::npos ? std::string_view{} : rest.substr(slash);
  }
}

std::string canonical_http_url(std::string_view rest, bool https) {
  if (!std::all_of(rest.begin(), rest.end(), [](char c) { return c >= 0; })) {
    refuse_address("a URL holds ASCII characters only");
  }
  // Searches the path, too: a '/' inside a password would put the '@' there.
  if (rest.find('@') != std::string_view::npos) {
    refuse_address("it must not hold a user name or password; isr asks for them (write %40 for an @ in a path)");
  }
  if (rest.find_first_of("?#\"<>\\^`{|} ") != std::string_view::npos) {
    refuse_address("it holds a character that a URL path cannot have");
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
      refuse_address("an IPv6 address must stand in brackets, as in http://[::1]:8080/");
    }
    port = port_suffix(authority.substr(colon + 1), https);
  }
  check_host(host);
  return fmt::format("{}://{}{}{}", https ? "https" : "http", ascii_lower(host), port, path);
}

}  // namespace

StoreScheme http_scheme() {
  const auto canonical = [](std::string_view rest) { return canonical_http_url(rest, false); };
  return {"http", "http://", canonical, open_http_store};
}

StoreScheme https_scheme() {
  const auto canonical = [](std::string_view rest) { return canonical_http_url(rest, true); };
  return {"https", "https://", canonical, open_http_store};
}

}  // namespace isr
