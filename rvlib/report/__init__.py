"""Rows in, Table 1 and Figure 1 out.  Nothing here measures; everything here can be traced."""
