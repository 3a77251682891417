#include "data/chat.h"

namespace rankfold {
namespace {

// `answer`: what is written of an assistant's message.
std::string baichuan(const std::string& answer) {
  return R"({%- set eos = eos_token if eos_token is defined else '</s>' -%}
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{ @ASSISTANT@ }}{% generation %})" +
         answer + R"({% endgeneration %}
{%- elif message.role == 'user' -%}
{{ @USER@ + message.content }}
{%- elif message.role == 'system' and loop.first -%}
{{ message.content }}
{%- else -%}
{{ raise_exception('this template has no place for a message of the role ' + message.role) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ @ASSISTANT@ }}{%- endif -%}
)";
}

}  // namespace

// Written anew after the formats that these families were trained with. A system text stands where each has it; nothing
// is trimmed. The end of an answer is eos_token, </s> where the folder names none.
const std::vector<BuiltInTemplate>& built_in_templates() {
  static const std::vector<BuiltInTemplate> templates = {
      {.name = "baichuan",
       .source = baichuan("{{ message.content + eos }}"),
       .user_id = 195,
       .assistant_id = 196,
       .user_text = "<reserved_102>",
       .assistant_text = "<reserved_103>"},
      {.name = "baichuan2",  // the last answer alone ends in eos
       .source = baichuan("{{ message.content }}{% if loop.last %}{{ eos }}{% endif %}"),
       .user_id = 195,
       .assistant_id = 196,
       .user_text = "<reserved_106>",
       .assistant_text = "<reserved_107>"},
      {.name = "llama2", .source = R"({%- set bos = bos_token if bos_token is defined else '<s>' -%}
{%- set eos = eos_token if eos_token is defined else '</s>' -%}
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
{%- if message.role == 'system' and loop.first -%}
{%- set ns.system = '<<SYS>>\n' + message.content + '\n<</SYS>>\n\n' -%}
{%- elif message.role == 'user' -%}
{{ bos + '[INST] ' + ns.system + message.content + ' [/INST]' }}
{%- set ns.system = '' -%}
{%- elif message.role == 'assistant' -%}
{{ ' ' + message.content + ' ' + eos }}
{%- else -%}
{{ raise_exception('this template has no place for a message of the role ' + message.role) }}
{%- endif -%}
{%- endfor -%}
)"},
      {.name = "chatml", .source = R"({%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
)"},
      {.name = "alpaca", .source = R"({%- set eos = eos_token if eos_token is defined else '</s>' -%}
{%- if messages[0].role == 'system' -%}
{{ messages[0].content + '\n\n' }}
{%- else -%}
{{ 'Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n' }}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{ '### Instruction:\n' + message.content + '\n\n' }}
{%- elif message.role == 'assistant' -%}
{{ '### Response:\n' + message.content + eos + '\n\n' }}
{%- elif not (message.role == 'system' and loop.first) -%}
{{ raise_exception('this template has no place for a message of the role ' + message.role) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '### Response:\n' }}{%- endif -%}
)"},
      {.name = "vicuna", .source = R"({%- set eos = eos_token if eos_token is defined else '</s>' -%}
{%- if messages[0].role == 'system' -%}
{{ messages[0].content + ' ' }}
{%- else -%}
{{ "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions. " }}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{ 'USER: ' + message.content + ' ' }}
{%- elif message.role == 'assistant' -%}
{{ 'ASSISTANT: ' + message.content + eos }}
{%- elif not (message.role == 'system' and loop.first) -%}
{{ raise_exception('this template has no place for a message of the role ' + message.role) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}
)"}};
  return templates;
}

}  // namespace rankfold
