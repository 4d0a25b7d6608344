// accept-older: trusts an older version than the newest that this host has seen.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/app.h"
#include "cli/commands.h"

namespace isr {
namespace {

struct AcceptOptions {
  std::string name;
  std::optional<std::uint64_t> profile;
  std::string reason;
};

/// The part of the answer about junk after the version; empty when there is none.
std::string describe_junk(const StoredHead& head) {
  if (head.junk.empty()) return "";
  const std::uint64_t first = head.head.n + 1;
  const std::uint64_t next = first + head.junk.size();
  const std::string numbers = head.junk.size() == 1 ? fmt::format("the number {} is", first)
                                                    : fmt::format("the numbers {} to {} are", first, next - 1);
  return fmt::format("; {} skipped, the next version will be {}", numbers, next);
}

/// Finds the chain and version that the arguments name, and accepts that version.
int run_accept(CommandContext& context, const AcceptOptions& options) {
  if (options.profile.has_value() != options.name.empty()) {
    throw Error(ErrorKind::kUsage, "give either NAME@VERSION or --profile N");
  }
  if (options.reason.empty())
    throw Error(ErrorKind::kUsage, "--reason: give a reason; it is kept in this host's record of versions");
  if (options.profile) {
    const Account account = context.open_account();
    const auto head = account.chain(fmt::format("users/{}/profile", account.identity.user))
                          .accept_older(*options.profile, options.reason);
    context.out.done(
        fmt::format("the list of parcels is the one of {} again", to_rfc3339(head.head.time)) + describe_junk(head),
        {{"profile", head.head.n}, {"when", to_rfc3339(head.head.time)}});
    return 0;
  }
  const ParcelName name = parse_parcel_name(options.name);
  if (!name.version.choice.number) throw Error(ErrorKind::kUsage, "give the version as a number: NAME@VERSION");
  const OpenParcel parcel = context.open_parcel(options.name);
  const auto head =
      parcel.account.chain(parcel.entry.chain()).accept_older(*name.version.choice.number, options.reason);
  context.out.done(fmt::format("{}: version {} of {} is the newest that this host trusts", parcel.entry.name,
                               head.head.n, to_rfc3339(head.head.time)) +
                       describe_junk(head),
                   {{"parcel", parcel.entry.name}, {"version", head.head.n}, {"when", to_rfc3339(head.head.time)}});
  return 0;
}

}  // namespace

void register_accept_older(App& app) {
  auto options = std::make_shared<AcceptOptions>();
  app.command(Group::kAdministration, "accept-older", "trust an older version than the newest that this host has seen")
      .optional_argument("NAME@V", options->name, "the parcel, and the version to take as its newest")
      .number("--profile", options->profile, "N", "instead of a parcel: version N of your list of parcels")
      .option("--reason", options->reason, "TEXT", "the reason; it is logged on this host")
      .note(
          "A repository that hands back an old version is refused (exit 15): it may hide your newer work. After\n"
          "it was restored from a backup on purpose, this is the way on.\n"
          "It is also the way on when something that is no version lies under the next number. That number is then\n"
          "skipped, and the next version names what was skipped, so that your other hosts pass it, too.")
      .example("isr accept-older work@39 --reason 'server restored from Monday backup'", "the parcel work")
      .example("isr accept-older --profile 4 --reason 'server restored'", "the list of parcels itself")
      .exit_codes({0, 2, 10, 12, 13, 14, 15})
      .run([options](CommandContext& context) { return run_accept(context, *options); });
}

}  // namespace isr
