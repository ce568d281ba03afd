-- Harmless, and refused all the same: what the allow-list does not know yet. None of these is promised.
SELECT ifnull(note, ''), iif(x > 3, 'a', 'b'), instr(note, 'a'), replace(note, 'a', 'b'), printf('%.2f', x) FROM orders
