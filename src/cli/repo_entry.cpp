#include "cli/repo_entry.h"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

namespace isr {

std::string default_user(const std::string& given) {
  if (!given.empty()) return given;
  const passwd* entry = ::getpwuid(::getuid());  // NOLINT(concurrency-mt-unsafe): one thread asks
  const std::string name = entry == nullptr ? "" : entry->pw_name;
  try {
    check_user_name(name);
  } catch (const Error&) {
    throw Error(ErrorKind::kUsage, "your login name is not allowed as a user name in a repository",
                {"give one with --user NAME"});
  }
  return name;
}

void refuse_taken_repository_name(CommandContext& context, const std::string& name) {
  check_repository_name(name);
  if (const auto taken = context.config().repository(name)) {
    throw Error(ErrorKind::kUsage,
                fmt::format("a repository called {} exists already in the configuration: {}", name, taken->url),
                {"choose another name with --name, or: isr repo rm " + name});
  }
}

BlobStorePtr open_configured(CommandContext& context, const RepositoryEntry& entry) {
  StoreOptions options;
  options.is_known = pinned_repository(context.paths(), entry).has_value();
  return open_store(entry.url, options);
}

}  // namespace isr
