# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine code of the wrapper: a few system calls, needing nothing from the image.

Each listing is the truth that wrapper.py assembles: bytes on the left, what they are on the right, `{name}` for
a 32-bit number that is filled in.  Entered by the kernel with argc, argv and envp on the stack, the code

* makes a new array of variables on the stack: the inherited ones whose names are not among the additions, then
  the additions;
* enters the directory;
* tries the programs with execve, and says on standard error what failed.

| number | is |
|---|---|
| room | 8 × the number of additions |
| additions, programs, arguments | addresses of arrays of addresses of strings, ended by 0 |
| directory | address of a string; `.` where nothing is to be entered |
| enter_text enter_size, run_text run_size | address and length of the messages |
"""

# Register use: r13 inherited array, r14 new array, rdi where to write in it, r12 exit status, r15 error.
X86_64 = """
_start:
  48 8b 0c 24                 # mov (%rsp),%rcx
  4c 8d 6c cc 10              # lea 0x10(%rsp,%rcx,8),%r13
  31 c9                       # xor %ecx,%ecx
count:  # how many variables there are, the NULL included
  48 8d 49 01                 # lea 0x1(%rcx),%rcx
  49 83 7c cd f8 00           # cmpq $0x0,-0x8(%r13,%rcx,8)
  75 f4                       # jne count
  48 8d 0c cd {room}          # lea room(,%rcx,8),%rcx
  48 29 cc                    # sub %rcx,%rsp
  48 83 e4 f0                 # and $0xfffffffffffffff0,%rsp
  49 89 e6                    # mov %rsp,%r14
  48 89 e7                    # mov %rsp,%rdi
inherited:  # every variable of ours that was given, unless it is replaced
  49 8b 75 00                 # mov 0x0(%r13),%rsi
  49 83 c5 08                 # add $0x8,%r13
  48 85 f6                    # test %rsi,%rsi
  74 2d                       # je added
  bb {additions}              # mov $additions,%ebx
compare:  # is its name one of the additions?
  48 8b 13                    # mov (%rbx),%rdx
  48 83 c3 08                 # add $0x8,%rbx
  48 85 d2                    # test %rdx,%rdx
  74 13                       # je keep
  31 c9                       # xor %ecx,%ecx
byte:  # equal up to and with the "="
  8a 04 0a                    # mov (%rdx,%rcx,1),%al
  3a 04 0e                    # cmp (%rsi,%rcx,1),%al
  75 ea                       # jne compare
  48 ff c1                    # inc %rcx
  3c 3d                       # cmp $0x3d,%al
  75 f1                       # jne byte
  eb cf                       # jmp inherited
keep:
  48 89 37                    # mov %rsi,(%rdi)
  48 83 c7 08                 # add $0x8,%rdi
  eb c6                       # jmp inherited
added:  # then the additions and the NULL
  bb {additions}              # mov $additions,%ebx
copy:
  48 8b 03                    # mov (%rbx),%rax
  48 89 07                    # mov %rax,(%rdi)
  48 83 c3 08                 # add $0x8,%rbx
  48 83 c7 08                 # add $0x8,%rdi
  48 85 c0                    # test %rax,%rax
  75 ed                       # jne copy
  bf {directory}              # mov $directory,%edi
  b8 50 00 00 00              # mov $0x50,%eax
  0f 05                       # syscall
  be {enter_text}             # mov $enter_text,%esi
  ba {enter_size}             # mov $enter_size,%edx
  41 bc 7e 00 00 00           # mov $0x7e,%r12d
  f7 d8                       # neg %eax
  41 89 c7                    # mov %eax,%r15d
  75 51                       # jne failed
  41 bf 02 00 00 00           # mov $0x2,%r15d
  bb {programs}               # mov $programs,%ebx
try:  # execve of one path after the other, as execvp(3) does
  48 8b 3b                    # mov (%rbx),%rdi
  48 83 c3 08                 # add $0x8,%rbx
  48 85 ff                    # test %rdi,%rdi
  74 23                       # je tried
  be {arguments}              # mov $arguments,%esi
  4c 89 f2                    # mov %r14,%rdx
  b8 3b 00 00 00              # mov $0x3b,%eax
  0f 05                       # syscall
  f7 d8                       # neg %eax
  83 f8 02                    # cmp $0x2,%eax
  74 de                       # je try
  83 f8 14                    # cmp $0x14,%eax
  74 d9                       # je try
  41 89 c7                    # mov %eax,%r15d
  83 f8 0d                    # cmp $0xd,%eax
  74 d1                       # je try
tried:  # 127 when nothing was there, 126 when it could not be run
  be {run_text}               # mov $run_text,%esi
  ba {run_size}               # mov $run_size,%edx
  41 83 ff 02                 # cmp $0x2,%r15d
  0f 94 c0                    # sete %al
  0f b6 c0                    # movzbl %al,%eax
  41 01 c4                    # add %eax,%r12d
failed:  # the message, the number of the error, the exit status
  bf 02 00 00 00              # mov $0x2,%edi
  b8 01 00 00 00              # mov $0x1,%eax
  0f 05                       # syscall
  44 89 f8                    # mov %r15d,%eax
  48 8d 74 24 20              # lea 0x20(%rsp),%rsi
  c6 06 0a                    # movb $0xa,(%rsi)
  41 b8 01 00 00 00           # mov $0x1,%r8d
  b9 0a 00 00 00              # mov $0xa,%ecx
digit:
  31 d2                       # xor %edx,%edx
  f7 f1                       # div %ecx
  80 c2 30                    # add $0x30,%dl
  48 ff ce                    # dec %rsi
  88 16                       # mov %dl,(%rsi)
  41 ff c0                    # inc %r8d
  85 c0                       # test %eax,%eax
  75 ed                       # jne digit
  44 89 c2                    # mov %r8d,%edx
  bf 02 00 00 00              # mov $0x2,%edi
  b8 01 00 00 00              # mov $0x1,%eax
  0f 05                       # syscall
  44 89 e7                    # mov %r12d,%edi
  b8 3c 00 00 00              # mov $0x3c,%eax
  0f 05                       # syscall
"""

# Register use: x19 inherited array, x20 new array, x4 where to write in it, x21 exit status, x22 error.
ARM64 = """
_start:
  e0 03 40 f9                 # ldr x0, [sp]
  f3 6f 20 8b                 # add x19, sp, x0, lsl #3
  73 42 00 91                 # add x19, x19, #16
  01 00 80 d2                 # mov x1, #0
count:  # how many variables there are, the NULL included
  62 7a 61 f8                 # ldr x2, [x19, x1, lsl #3]
  21 04 00 91                 # add x1, x1, #1
  c2 ff ff b5                 # cbnz x2, count
  62 09 00 18                 # ldr w2, room
  42 0c 01 8b                 # add x2, x2, x1, lsl #3
  e3 03 00 91                 # mov x3, sp
  63 00 02 cb                 # sub x3, x3, x2
  7f ec 7c 92                 # and sp, x3, #0xfffffffffffffff0
  f4 03 00 91                 # mov x20, sp
  e4 03 00 91                 # mov x4, sp
inherited:  # every variable of ours that was given, unless it is replaced
  65 86 40 f8                 # ldr x5, [x19], #8
  e5 01 00 b4                 # cbz x5, added
  66 08 00 18                 # ldr w6, additions
compare:  # is its name one of the additions?
  c7 84 40 f8                 # ldr x7, [x6], #8
  47 01 00 b4                 # cbz x7, keep
  08 00 80 d2                 # mov x8, #0
byte:  # equal up to and with the "="
  e9 68 68 38                 # ldrb w9, [x7, x8]
  aa 68 68 38                 # ldrb w10, [x5, x8]
  3f 01 0a 6b                 # cmp w9, w10
  41 ff ff 54                 # b.ne compare
  08 05 00 91                 # add x8, x8, #1
  3f f5 00 71                 # cmp w9, #61
  41 ff ff 54                 # b.ne byte
  f3 ff ff 17                 # b inherited
keep:
  85 84 00 f8                 # str x5, [x4], #8
  f1 ff ff 17                 # b inherited
added:  # then the additions and the NULL
  a6 06 00 18                 # ldr w6, additions
copy:
  c7 84 40 f8                 # ldr x7, [x6], #8
  87 84 00 f8                 # str x7, [x4], #8
  c7 ff ff b5                 # cbnz x7, copy
  40 06 00 18                 # ldr w0, directory
  28 06 80 d2                 # mov x8, #49
  01 00 00 d4                 # svc #0
  01 06 00 18                 # ldr w1, enter_text
  02 06 00 18                 # ldr w2, enter_size
  d5 0f 80 52                 # mov w21, #126
  f6 03 00 4b                 # neg w22, w0
  b6 02 00 35                 # cbnz w22, failed
  56 00 80 52                 # mov w22, #2
  97 05 00 18                 # ldr w23, programs
try:  # execve of one path after the other, as execvp(3) does
  e0 86 40 f8                 # ldr x0, [x23], #8
  a0 01 00 b4                 # cbz x0, tried
  41 05 00 18                 # ldr w1, arguments
  e2 03 14 aa                 # mov x2, x20
  a8 1b 80 d2                 # mov x8, #221
  01 00 00 d4                 # svc #0
  e0 03 00 4b                 # neg w0, w0
  1f 08 00 71                 # cmp w0, #2
  00 ff ff 54                 # b.eq try
  1f 50 00 71                 # cmp w0, #20
  c0 fe ff 54                 # b.eq try
  f6 03 00 2a                 # mov w22, w0
  1f 34 00 71                 # cmp w0, #13
  60 fe ff 54                 # b.eq try
tried:  # 127 when nothing was there, 126 when it could not be run
  e1 03 00 18                 # ldr w1, run_text
  e2 03 00 18                 # ldr w2, run_size
  df 0a 00 71                 # cmp w22, #2
  b5 16 95 1a                 # cinc w21, w21, eq
failed:  # the message, the number of the error, the exit status
  40 00 80 52                 # mov w0, #2
  08 08 80 d2                 # mov x8, #64
  01 00 00 d4                 # svc #0
  e1 83 00 91                 # add x1, sp, #32
  43 01 80 52                 # mov w3, #10
  23 00 00 39                 # strb w3, [x1]
  22 00 80 52                 # mov w2, #1
digit:
  c4 0a c3 1a                 # udiv w4, w22, w3
  85 d8 03 1b                 # msub w5, w4, w3, w22
  a5 c0 00 11                 # add w5, w5, #48
  25 fc 1f 38                 # strb w5, [x1, #-1]!
  42 04 00 11                 # add w2, w2, #1
  f6 03 04 2a                 # mov w22, w4
  56 ff ff 35                 # cbnz w22, digit
  40 00 80 52                 # mov w0, #2
  08 08 80 d2                 # mov x8, #64
  01 00 00 d4                 # svc #0
  e0 03 15 2a                 # mov w0, w21
  a8 0b 80 d2                 # mov x8, #93
  01 00 00 d4                 # svc #0
  {room}
  {additions}
  {directory}
  {enter_text}
  {enter_size}
  {programs}
  {arguments}
  {run_text}
  {run_size}
"""
