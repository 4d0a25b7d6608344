#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "repository/blob_store.h"

/// The answers of isr serve, without sockets. Implements docs/formats/http.md.
namespace isr {

enum class ServerMethod { kGet, kHead, kPut, kDelete, kOther };

/// A request. The body is read only after refuse_early() let the request in.
struct ServerRequest {
  ServerMethod method = ServerMethod::kOther;
  std::string target;
  std::string range;  ///< header values, empty when absent
  std::string if_none_match;
  std::string host;
  Bytes body;
};

struct ServerAnswer {
  int status = 500;
  std::vector<std::pair<std::string, std::string>> headers;
  Bytes body;
  std::optional<std::uint64_t> head_length;  ///< of the body that a HEAD leaves out
};

/// The text is one line, for people.
ServerAnswer refusal(int status, std::string_view why);

struct BlobTarget {
  std::string name;
};
struct ListTarget {
  std::string prefix;
  std::string after;  ///< empty for the first page
};
/// Parses "/NAME" or "/?list=PREFIX[&after=NAME]"; nullopt for anything else. A valid target needs no percent sign, so
/// none is ever decoded.
std::optional<std::variant<BlobTarget, ListTarget>> parse_target(std::string_view target);

/// True for an IP address, "localhost" or one of `names`, each with or without a port. Protects against DNS rebinding:
/// a browser that a foreign page sent here uses another name.
bool is_own_host(std::string_view host, const std::vector<std::string>& names);

struct AnswerOptions {
  bool read_only = false;
  bool allow_delete = false;
  std::vector<std::string> host_names;
};

/// The refusal of a request whose body need not be read; nullopt: read the body, then call answer().
std::optional<ServerAnswer> refuse_early(const ServerRequest& request, const AnswerOptions& options);
/// Carries out a request that refuse_early() let in. Blocks on the disk. Never throws: a failure is logged and becomes
/// an answer.
ServerAnswer answer(const ServerRequest& request, BlobStore& store) noexcept;

}  // namespace isr
