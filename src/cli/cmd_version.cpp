// version: prints the version of isr.
#include <nlohmann/json.hpp>

#include "cli/app.h"
#include "cli/commands.h"

namespace isr {
namespace {

int run_version(CommandContext& context) {
  if (context.out.json()) {
    context.out.document({{"schema", 1}, {"version", ISR_VERSION}});
  } else {
    context.out.line("isr " ISR_VERSION);
  }
  return 0;
}

}  // namespace

void register_version(App& app) {
  app.command(Group::kAdministration, "version", "print the version of isr")
      .example("isr version", "isr " ISR_VERSION)
      .example("isr version --json", "for scripts")
      .exit_codes({0})
      .run([](CommandContext& context) { return run_version(context); });
}

}  // namespace isr
